"""Five wrong passwords for a name from an address, and both wait a quarter of an hour."""

from __future__ import annotations

from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.core.cache import caches
from django.core.management import call_command
from django.test import Client
from django.utils.timezone import now

from evsys_web import rates
from evsys_web.accounts import lockout
from evsys_web.accounts.models import User

LOGIN = "/accounts/login/"
RIGHT = "alice's password"


@pytest.fixture(autouse=True)
def _nobody_failed_before_and_the_minute_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    caches["rates"].clear()
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_015.0)


def sign_in(password: str, *, username: str = "alice", address: str = "192.0.2.1", path: str = LOGIN) -> tuple[int, str]:
    response = Client(REMOTE_ADDR=address).post(path, {"username": username, "password": password})
    return response.status_code, response.headers.get("Retry-After", "")


def guess(times: int, **where: str) -> list[int]:
    return [sign_in(f"guess {number}", **where)[0] for number in range(times)]


def test_the_fifth_wrong_password_locks_and_says_when_to_come_back(alice: User) -> None:
    assert guess(4) == [200] * 4
    status, seconds = sign_in("guess")
    assert status == 429 and 800 < int(seconds) <= 900
    page = Client(REMOTE_ADDR="192.0.2.1").post(LOGIN, {"username": "alice", "password": RIGHT})
    assert page.status_code == 429 and "Try again in 15 minutes" in page.content.decode()


def test_it_is_that_name_from_that_address_alone(alice: User, bob: User) -> None:
    guess(5)
    assert sign_in(RIGHT, address="192.0.2.2")[0] == 302
    assert sign_in("bob's password", username="bob")[0] == 302


def test_a_name_that_nobody_has_is_locked_likewise(alice: User) -> None:
    assert guess(5, username="nobody")[-1] == 429


def test_the_right_password_wipes_the_slate(alice: User) -> None:
    guess(4)
    assert sign_in(RIGHT)[0] == 302
    assert guess(4) == [200] * 4


def test_one_password_tried_on_many_names_stops_the_address(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockout, "FAILURES_A_MINUTE", 3)
    answers = [sign_in("Winter2026!", username=f"name {number}") for number in range(4)]
    assert answers == [(200, "")] * 3 + [(429, "60")]
    assert sign_in(RIGHT)[0] == 429, "nobody learns which password is right meanwhile"
    assert sign_in(RIGHT, address="192.0.2.2")[0] == 302
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_075.0)
    assert sign_in(RIGHT)[0] == 302


def test_a_quarter_of_an_hour_later_it_opens_again(alice: User) -> None:
    guess(5)
    AccessAttempt.objects.update(attempt_time=now() - timedelta(minutes=16))
    assert sign_in(RIGHT)[0] == 302


def test_whoever_runs_the_server_opens_it_at_once(alice: User) -> None:
    guess(5)
    call_command("axes_reset_username", "alice")
    assert sign_in(RIGHT)[0] == 302


def test_the_admins_own_sign_in_counts_too(admin: User) -> None:
    assert guess(5, username="admin", path="/admin/login/")[-1] == 429
    assert sign_in("admin's password", username="admin")[0] == 429


def test_the_secret_of_an_invitation_is_not_kept_with_a_wrong_password(alice: User) -> None:
    there = "/accounts/invitations/a-secret-of-43-characters/"
    Client().post(f"{LOGIN}?next={there}", {"username": "alice", "password": "wrong", "next": there})
    kept = AccessAttempt.objects.get()
    assert "a-secret" not in f"{kept.get_data} {kept.post_data} {kept.path_info}"
