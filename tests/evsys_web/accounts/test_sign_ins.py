"""Who came, tried to come, was locked out and left stands in the audit log; what they typed does not."""

from __future__ import annotations

from typing import Any

import pytest
from axes.models import AccessAttempt
from django.core.cache import caches
from django.test import Client
from django.urls import reverse

from evsys_web import rates
from evsys_web.accounts import sign_ins
from evsys_web.accounts.models import AuditEntry, Project, User
from tests.evsys_web.accounts.test_lockout import LOGIN, RIGHT, guess, sign_in


@pytest.fixture(autouse=True)
def _nobody_failed_before_and_the_minute_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    caches["rates"].clear()
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_015.0)


def noted() -> list[tuple[str, str, str]]:
    """(who, did, to whom), oldest first."""
    return list(AuditEntry.objects.order_by("pk").values_list("username", "verb", "thing"))


def test_signing_in_and_out_is_noted_with_the_address_and_seen_by_oneself(alice: User, project: Project) -> None:
    browser = Client(REMOTE_ADDR="192.0.2.1")
    browser.post(LOGIN, {"username": "alice", "password": RIGHT})
    seen = browser.get(reverse("accounts:audit")).content.decode()
    assert "signed in" in seen and "192.0.2.1" in seen
    browser.post(reverse("accounts:logout"))
    assert noted() == [("alice", "signed in", "alice"), ("alice", "signed out", "alice")]
    assert set(AuditEntry.objects.values_list("door", "address")) == {("page", "192.0.2.1")}


def test_a_failure_is_nobodys_deed_and_a_lockout_is_told_apart(alice: User) -> None:
    guess(6)
    assert noted() == [("", "failed to sign in as", "alice")] * 4 + [("", "was locked out as", "alice")] * 2


def test_a_password_typed_as_a_name_is_not_written_down(alice: User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="axes")
    for name in (RIGHT, "\0", "x" * 5000, ""):
        guess(5, username=name)
    everything = f"{list(AuditEntry.objects.values())} {list(AccessAttempt.objects.values())} {caplog.text}"
    assert RIGHT not in everything and "guess" not in everything and "xxx" not in everything
    assert {thing for _, _, thing in noted()} == {sign_ins.NOBODYS_NAME}


def test_guessing_does_not_fill_the_log(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_ins, "NOTED_A_MINUTE", 3)
    for number in range(8):
        sign_in("guess", username=f"name {number}")
    sign_in("guess", username="alice", address="192.0.2.2")
    assert [name for _, _, name in noted()] == [sign_ins.NOBODYS_NAME] * 3 + ["alice"]


@pytest.mark.parametrize("address", ["no address", "", "fe80::1%eth0", "192.0.2.1, 10.0.0.1"])
def test_what_a_proxy_calls_an_address_breaks_no_sign_in(address: str, alice: User, client: Any) -> None:
    assert guess(5, address=address)[-1] == 429
    assert sign_in(RIGHT, address=address)[0] == 429
    assert AuditEntry.objects.filter(verb="was locked out as").exists()
