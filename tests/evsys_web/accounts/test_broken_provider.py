"""A sign-in that is forged, a provider that lies, breaks, refuses or is away: a sentence, and nobody is signed in."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import pytest
from django.test import Client

from evsys_web.accounts.models import User
from evsys_web.environment import oidc_providers
from tests.evsys_web.accounts.conftest import is_in
from tests.oidc_server import CLIENT_SECRET, FakeProvider, rsa_key

pytestmark = pytest.mark.django_db


def broken(client: Client, provider: FakeProvider) -> tuple[int, str]:
    response = provider.sign_in(client)
    assert not is_in(client) and not User.objects.exists()
    return response.status_code, response.content.decode()


def test_what_was_not_begun_here_ends_nowhere(client: Client, provider: FakeProvider) -> None:
    back = provider.sign_in(client, follow=False)
    for browser, path in ((Client(), back), (client, f"{back}x"), (client, "/accounts/sso/callback/?code=1")):
        response = browser.get(path)
        assert response.status_code == 400 and "Begin again" in response.content.decode()
    assert client.get(back)["Location"] == "/"
    assert client.get(back).status_code in {302, 400} and User.objects.count() == 1


@pytest.mark.parametrize(
    "lie",
    [
        {"signs": rsa_key},
        {"has_id_token": False},
        {"id_claims": {"sub": "somebody-else"}},
        {"id_claims": {"aud": "another-client"}},
        {"id_claims": {"iss": "https://evil.example"}},
        {"id_claims": {"exp": 1}},
    ],
    ids=["signature", "no ID token", "another person", "another client", "another issuer", "expired"],
)
def test_what_proves_nothing_signs_nobody_in(client: Client, provider: FakeProvider, lie: dict[str, Any]) -> None:
    for name, value in lie.items():
        setattr(provider, name, value)
    status, page = broken(client, provider)
    assert status == 502 and "does not prove who you are" in page


@pytest.mark.parametrize(
    ("path", "answer", "says"),
    [
        ("/.well-known/openid-configuration", 500, "does not answer"),
        ("/.well-known/openid-configuration", b"<html>", "does not answer"),
        ("/.well-known/openid-configuration", b"{}", "does not prove"),
        ("/.well-known/openid-configuration", b"[]", "does not prove"),
        ("/token", 401, "does not prove"),
        ("/token", b"nonsense", "does not answer"),
        ("/token", b"{}", "does not prove"),
        ("/userinfo", 503, "does not answer"),
        ("/userinfo", b'["erin"]', "does not prove"),
        ("/jwks", b'{"keys": []}', "does not prove"),
        ("/jwks", 500, "does not answer"),
    ],
)
def test_a_provider_that_breaks_is_a_sentence(
    client: Client, provider: FakeProvider, path: str, answer: int | bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider.broken[path] = answer
    status, page = broken(client, provider)
    assert status == 502 and says in page and "lunch" not in page
    assert "single sign-on failed" in caplog.text and CLIENT_SECRET not in caplog.text


def test_a_provider_that_is_away_is_a_sentence(client: Client, provider: FakeProvider, settings: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        settings.OIDC = settings.OIDC._replace(issuer=f"http://127.0.0.1:{taken.getsockname()[1]}")
    settings.SOCIALACCOUNT_PROVIDERS = oidc_providers(settings.OIDC)
    response = client.get("/accounts/sso/")
    assert response.status_code == 502 and "Keycloak does not answer" in response.content.decode()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("access_denied", "you broke off"),
        ("temporarily_unavailable", "refused the sign-in (temporarily_unavailable)"),
        ("<script>", "refused the sign-in."),
    ],
)
def test_a_provider_that_refuses_is_a_sentence(client: Client, provider: FakeProvider, error: str, says: str) -> None:
    provider.error = error
    _, page = broken(client, provider)
    assert says in page and "<b>no" not in page and "<script>alert" not in page
