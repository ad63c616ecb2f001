"""Deny by default: every address of the product, found by walking the URL table, is asked by everybody in every way, and does
what the table of `access.py` says. An address that the table lacks fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from evsys_web.accounts.models import User
from evsys_web.evals.models import EvalRun
from evsys_web.runs.models import TrainingRun
from tests.conftest import signed_in, token_headers
from tests.contracts.access import ADMIN, EDIT, LOOK, MAKER, OF_ENDED_WORK, OPEN, OWN, QUIRKS, RULES, STAFF, SUPERUSER, Rule
from tests.contracts.world import World
from tests.contracts.world import world as world

pytestmark = pytest.mark.django_db
PEOPLE = ("nobody", "mallory", "carol", "bob", "alice")
METHODS = ("get", "post", "put", "patch", "delete")
MAY: dict[Rule, set[str]] = {
    LOOK: {"carol", "bob", "alice"},
    EDIT: {"bob", "alice"},
    MAKER: {"alice"},
    ADMIN: {"alice"},
    OWN: {"alice"},
    STAFF: set(),
    SUPERUSER: set(),
    OPEN: {"carol", "bob", "alice", "mallory", "nobody"},
}


def routes(patterns: list[URLPattern | URLResolver] | None = None, prefix: str = "") -> Iterator[str]:
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern).removeprefix("^").removesuffix("$")
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, route)
        else:
            yield route


STOCK_ADMIN = sorted({route for route in routes() if route.startswith("admin/") and route not in RULES})
ALL = sorted(set(routes()) - set(STOCK_ADMIN))


def address(route: str, keys: dict[str, str]) -> str:
    """The route with alice's own keys filled in: the parameter's own, else that of the noun before it."""

    def key(match: re.Match[str]) -> str:
        return keys[match["name"] if match["name"] in keys else match["noun"]]

    return "/" + re.sub(r"(?P<noun>[\w-]+)/<(?:\w+:)?(?P<name>\w+)>", lambda match: f"{match['noun']}/{key(match)}", route)


@contextmanager
def undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def ask(route: str, method: str, user: User | None, world: World) -> Any:
    keys = world.ended if route.endswith(OF_ENDED_WORK) else world.keys
    if route.endswith(("/finish", "/log-batch")):
        keys = keys | {"runs": str(world.external().pk)}
    is_api = route.startswith("api/")
    client = signed_in(user) if user and not is_api else Client()
    headers = token_headers(user) if user and is_api else {}
    body = world.body(route) if method in RULES[route] and method != "get" else {}
    return getattr(client, method)(address(route, keys) + world.query(route), headers=headers, **body)


def test_every_address_has_its_rule() -> None:
    assert set(ALL) - set(RULES) == set(), "addresses without a rule: say in access.py who may do what there"
    assert set(RULES) - set(ALL) == set(), "rules without an address"


@pytest.mark.parametrize(("route", "method"), [(route, method) for route in RULES for method in RULES[route]])
def test_everybody_gets_what_their_role_allows(route: str, method: str, world: World, settings: Any) -> None:
    settings.CHAT_MEMORY_MB = 0
    for person in PEOPLE:
        with undone():
            response = ask(route, method, getattr(world, person, None), world)
            where = f"{person}: {method} {response.request['PATH_INFO']} answered {response.status_code}"
            assert response.status_code in allowed_answers(route, method, person, response), where


@pytest.mark.parametrize("method", METHODS)
def test_no_address_answers_a_method_that_has_no_rule(method: str, world: World) -> None:
    wrong = []
    for route, rules in RULES.items():
        is_ninjas_own = route.startswith("api/") and OPEN in rules.values()  # it gives its document to any method
        if method not in rules and not {STAFF, SUPERUSER} & set(rules.values()) and not is_ninjas_own:
            for user in (None, world.alice):
                status = ask(route, method, user, world).status_code
                sent_on = {302} if route == "accounts/login/" else set()  # whoever is signed in
                if status not in ({405} | sent_on if user else {302, 401, 405}):
                    wrong.append(f"{method} {route}: {status}")
    assert wrong == []


def allowed_answers(route: str, method: str, person: str, response: Any) -> set[int]:
    rule, is_api = RULES.get(route, {}).get(method), route.startswith("api/")
    if person == "nobody" and rule is not OPEN:
        if is_api:
            return {401, 405}
        goes_to_sign_in = "login/" in response.headers.get("Location", "")
        return {302} if goes_to_sign_in else {405} if route == "accounts/logout/" else set()
    if rule is STAFF:
        return {302} if "/admin/login/" in response.headers.get("Location", "") else set()
    if rule is SUPERUSER:
        return {404}
    is_somebodys = "<" in route
    is_ones_own = not is_somebodys and (rule is OWN or (rule is LOOK and method == "get"))
    if person in MAY[rule] or is_ones_own:
        done = set(range(200, 400)) | ({400, 409, 422, 502} if method != "get" else set())
        return done | QUIRKS.get((route, method), set())
    if person == "mallory" and not is_somebodys and not is_api:
        return set(range(200, 400)) | {422}  # her own project; alice's things are no choices there
    return {404} if person == "mallory" or rule is OWN else {403}


@pytest.mark.parametrize("route", STOCK_ADMIN)
def test_the_admin_is_for_staff_alone(route: str, world: World) -> None:
    path = "/" + re.sub(r"<[^>]+>", "1", route).replace("(?P1.*)", "x")
    if route in {"admin/login/", "admin/logout/", "admin/jsi18n/"}:
        return
    for method in ("get", "post"):
        for client in (Client(), signed_in(world.alice)):
            response = getattr(client, method)(path)
            assert response.status_code == 302 and "login/" in response["Location"], f"{method} {path}: {response.status_code}"


def test_a_stranger_with_a_token_changes_nothing_of_alices(world: World) -> None:
    before = (set(TrainingRun.objects.values_list("pk", "status")), set(EvalRun.objects.values_list("pk", "status")))
    for route, methods in RULES.items():
        for method, rule in methods.items():
            if route.startswith("api/") and "<" in route and rule is not OPEN:
                ask(route, method, world.mallory, world)
    TrainingRun.objects.filter(name="elsewhere").delete()
    assert before == (set(TrainingRun.objects.values_list("pk", "status")), set(EvalRun.objects.values_list("pk", "status")))


def test_a_token_that_may_only_read_changes_nothing_anywhere(world: World) -> None:
    headers = token_headers(world.alice, scope="read")
    for route, methods in RULES.items():
        if route.startswith("api/v1"):
            for method in set(methods) - {"get"}:
                response = getattr(Client(), method)(address(route, world.keys), headers=headers, **world.body(route))
                assert response.status_code == 403, f"{method} {route}: {response.status_code}"


def test_a_token_is_refused_where_the_session_rules_and_the_other_way_round(world: World) -> None:
    for route, methods in RULES.items():
        if methods.get("get") is LOOK:
            is_api = route.startswith("api/")
            client = signed_in(world.alice) if is_api else Client()
            response = client.get(address(route, world.keys), headers={} if is_api else token_headers(world.alice))
            assert response.status_code == (401 if is_api else 302), route
