"""What every answer carries and every door checks, found by walking the URL table: policy, framing, sniffing, host and origin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.test import Client, override_settings

from evsys_web.accounts.models import User
from evsys_web.security import POLICY
from tests.conftest import signed_in, token_headers
from tests.contracts.test_urls import ALL, address
from tests.contracts.world import World
from tests.contracts.world import world as world

ADMIN_PAGES = [
    "admin/",
    "admin/datasets/dataset/",
    "admin/datasets/dataset/add/",
    "admin/runs/trainingrun/",
    "admin/accounts/user/",
]
PAGES = [route for route in ALL if not route.startswith("api/") and "stream" not in route and "live" not in route]
FOREIGN = ("evil.example", "localhost.evil.example", "169.254.169.254", "evil.example:8000", "127.0.0.1.nip.io")
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
pytestmark = pytest.mark.django_db


def test_the_policy_names_our_own_files_and_nothing_that_runs_text() -> None:
    """The one hash is that of an empty style element."""
    rules = dict(rule.strip().partition(" ")[::2] for rule in POLICY.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == rules["form-action"] == "'self'"
    assert not re.search(r"unsafe|\*|https?:|blob:", POLICY)
    assert "data:" in rules["img-src"] and POLICY.count("data:") == 1


def test_every_answer_carries_the_policy(world: World) -> None:
    for path in [address(route, world.keys) for route in ALL]:
        for client in (Client(), signed_in(world.alice)):
            response = client.get(path)
            assert {name: response.headers.get(name) for name in HEADERS} == HEADERS, f"{path} ({response.status_code})"
            assert "Access-Control-Allow-Origin" not in response.headers


def test_no_page_holds_what_the_policy_would_refuse(world: World, admin: User) -> None:
    num_pages = 0
    for route in PAGES + ADMIN_PAGES:
        response = signed_in(admin if route.startswith("admin/") else world.alice).get(address(route, world.keys))
        if response.streaming or "html" not in response.headers.get("Content-Type", ""):
            continue
        num_pages += 1
        page = response.content.decode()
        assert not re.search(r"<[a-z][^<>]*\s(style|on[a-z]+)\s*=", page, re.IGNORECASE), route
        assert not re.search(r"<style|(href|src|action)\s*=\s*[\"']?\s*javascript:", page, re.IGNORECASE), route
        for attributes, body in re.findall(r"<script\b([^>]*)>(.*?)</script>", page, re.DOTALL | re.IGNORECASE):
            assert not body.strip() or re.search(r"type=.?application/json", attributes), f"{route}: {body[:100]}"
    assert num_pages > 40


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_somebody_else_gave_this_address_is_refused(host: str, world: World) -> None:
    """DNS rebinding: a page of theirs would be of the same origin as ours."""
    for path in ("/", "/accounts/login/", "/api/v1/runs", "/api/openapi.json", "/admin/login/", "/health/live"):
        response = signed_in(world.alice).get(
            path, headers={"host": host, **(token_headers(world.alice) if path.startswith("/api/v1") else {})}
        )
        assert response.status_code == 400, path


def test_nothing_is_sent_for_somebody_by_a_page_of_another_site(world: World) -> None:
    """With the session's cookie, but without our token; and with our token from elsewhere."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(world.alice)
    client.get("/accounts/")
    token = client.cookies["evsys_csrf"].value
    for path in [address(route, world.keys) for route in PAGES if not route.startswith("health/")]:
        bare = client.post(path, {})
        foreign = client.post(path, {"csrfmiddlewaretoken": token}, headers={"origin": "https://evil.example"})
        assert {bare.status_code, foreign.status_code} <= {403, 405}, f"{path} answered {bare.status_code}, {foreign.status_code}"


def test_cookies_stay_with_this_site_and_away_from_scripts(client: Client, world: World) -> None:
    client.get("/accounts/login/")
    client.post("/accounts/login/", {"username": "alice", "password": "a password"})
    session, csrf = client.cookies["evsys_session"], client.cookies["evsys_csrf"]
    assert session["httponly"] and session["samesite"] == csrf["samesite"] == "Lax"
    assert session["domain"] == csrf["domain"] == ""


def test_behind_tls_browsers_keep_to_it(client: Client) -> None:
    secure = {
        "SECURE_HSTS_SECONDS": 15_552_000,
        "SECURE_SSL_REDIRECT": True,
        "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
    }
    with override_settings(**secure):
        assert client.get("/accounts/login/")["Location"].startswith("https://")
        answer = client.get("/accounts/login/", headers={"x-forwarded-proto": "https"})
        assert answer["Strict-Transport-Security"] == "max-age=15552000"


def test_no_script_of_ours_turns_text_into_markup() -> None:
    """What a page's script is handed is as hostile as what a template is handed."""
    folder = Path(__file__).resolve().parents[2] / "static" / "js"
    assert list(folder.glob("**/*.js"))
    for script in folder.glob("**/*.js"):
        # As properties: htmx has a way to swap that bears the same name, written as a text.
        properties = r"(?:\.|\[\s*[\"'`])(?:innerHTML|outerHTML|insertAdjacentHTML)\b"
        calls = r"document\.write|\beval\(|new Function|setAttribute\(.on"
        found = re.findall(f"{properties}|{calls}", script.read_text())
        assert not found, f"{script.name} uses {found}"
