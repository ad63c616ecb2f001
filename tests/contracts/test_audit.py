"""Every write that succeeds leaves an entry in the audit log, through whichever door: the walk over all addresses again."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.messages import get_messages

from evsys_web.accounts.models import AuditEntry
from tests.contracts.access import RULES, STAFF, SUPERUSER, WRITES_NOTHING
from tests.contracts.test_urls import ask, undone
from tests.contracts.world import World
from tests.contracts.world import world as world

pytestmark = pytest.mark.django_db
WRITES = [
    (route, method)
    for route, rules in RULES.items()
    for method, rule in rules.items()
    if method != "get" and rule not in (STAFF, SUPERUSER) and route not in WRITES_NOTHING
]
REFUSED_IN_THIS_WORLD = {
    "accounts/credentials/<int:pk>/test",  # nor is there an address to try a key at; test_connection_tests.py does
    "accounts/password/",  # nobody types a password here; test_audit_log.py does
    "accounts/reset/<str:uidb64>/with/<str:token>/",  # nor here; test_reset.py does
    "accounts/second-factor/",  # test_second_factor.py
    "accounts/second-factor/codes",
    "accounts/second-factor/off",
    "accounts/sessions/others/end",  # she is signed in nowhere else
    "accounts/sso/disconnect",  # test_single_sign_on.py
    "sweeps/new/launch",
    "runs/checkpoints/<int:pk>/push",
    "runs/checkpoints/<int:pk>/merge",  # the starter is not on the disk of these rows
    "evals/<int:pk>/retry-errors",
    "evals/<int:pk>/resume",
    "runs/<int:pk>/resume",
    "cycles/<int:pk>/resume",
    "sweeps/<int:pk>/resume",
    "cycles/import",
    "runs/checkpoints/exports/<int:pk>/remove",
}
"""Pages whose deed does not fit the rows of the walk; the API's twins are held to leave an entry where they do."""


LEAVES_NO_TRACE = {"tested", "signed out", "joined"}
"""Of what is written about; she joined as what she is already."""


def succeeded(route: str, response: Any) -> bool:
    if route.startswith("api/"):
        return bool(response.status_code < 300)
    said = {message.level_tag for message in get_messages(response.wsgi_request)}
    shown_secret = (
        route in {"accounts/tokens/", "notifications/", "accounts/projects/<int:pk>/invitations/"} and response.status_code == 200
    )
    return (response.status_code == 302 or shown_secret) and not said & {"error", "info"}


@pytest.mark.parametrize(("route", "method"), WRITES)
def test_a_write_that_succeeds_leaves_an_entry(route: str, method: str, world: World) -> None:
    with undone():
        before = set(AuditEntry.objects.values_list("pk", flat=True))
        response = ask(route, method, world.alice, world)
        entries = list(AuditEntry.objects.exclude(pk__in=before))
        if not succeeded(route, response):
            is_known = route in REFUSED_IN_THIS_WORLD or response.status_code in {409, 422, 502}
            assert is_known, f"{method} {route} answered {response.status_code} and did nothing"
            return
    assert entries, f"{method} {route} answered {response.status_code} and left no entry"
    door = "API evs_" if route.startswith("api/") else "page"
    assert all(entry.username == "alice" and entry.door.startswith(door) for entry in entries)
    assert all(entry.address == "127.0.0.1" for entry in entries)
    assert "sk-of-somebody-else" not in str([entry.changes for entry in entries])
    assert all(entry.changes or entry.verb in LEAVES_NO_TRACE for entry in entries), "say what was before, and what is after"
