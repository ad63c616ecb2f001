"""Codes of an authenticator app: turned on, asked for at every door, lost, and taken away."""

from __future__ import annotations

import re
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal import auth
from django.core.cache import cache, caches
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from evsys_web import rates
from evsys_web.accounts.models import ApiToken, AuditEntry, User
from evsys_web.accounts.second_factor import second_factor_of, turn_on
from evsys_web.accounts.second_factor_forms import TRIED_AT_MOST
from tests.conftest import signed_in, token_headers

LOGIN, STEP, PAGE = "/accounts/login/", "/accounts/second-step/", "/accounts/second-factor/"
RIGHT = "alice's password"
SECRET = "JBSWY3DPEHPK3PXP"


class Clock:
    """Half minutes, as authenticator apps count them. A test says when the next one comes."""

    counter = 56_000_000

    def code(self, secret: str = SECRET) -> str:
        return auth.format_hotp_value(auth.hotp_value(secret, self.counter))

    def wrong(self) -> str:
        return f"{(int(self.code()) + 1) % 1_000_000:06}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    for each in caches.all():  # limits and used codes
        each.clear()
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_015.0)
    clock = Clock()
    monkeypatch.setattr(auth, "yield_hotp_counters_from_time", lambda: iter([clock.counter]))
    return clock


@pytest.fixture
def codes(alice: User, project: Any, clock: Clock) -> list[str]:
    """Recovery codes of alice, who has a second factor."""
    codes = turn_on(user=alice, secret=SECRET, revoke_tokens=False)
    clock.counter += 1  # the code of that half minute is used up
    return codes


def first_step(path: str = LOGIN, **values: str) -> Client:
    client = Client()
    response = client.post(path, {"username": "alice", "password": RIGHT, **values})
    assert response["Location"] == STEP
    return client


def is_in(client: Client) -> bool:
    return client.get("/accounts/").status_code == 200


def test_it_is_turned_on_with_the_password_and_a_code(alice_client: Client, alice: User, clock: Clock) -> None:
    other = signed_in(alice)
    page = alice_client.get(PAGE).content.decode()
    assert 'src="data:image/svg+xml;base64,' in page
    secret = re.search(r'id="secret">([A-Z2-7]+)<', page)
    assert secret is not None
    shown = alice_client.post(PAGE, {"code": clock.code(secret[1]), "password": RIGHT})
    codes = re.findall(r"^(?:.*>)?(\d{8})$", shown.content.decode(), flags=re.MULTILINE)
    assert len(codes) == 10 and "no-store" in shown["Cache-Control"]
    assert not is_in(_through(first_step(), clock.code(secret[1]))), "whoever saw it typed does not sign in with it"
    again = alice_client.get(PAGE).content.decode()
    assert not any(code in again for code in codes) and secret[1] not in again
    assert is_in(alice_client) and not is_in(other)
    assert AuditEntry.objects.filter(verb="turned on the second factor of", user=alice).count() == 1


@pytest.mark.parametrize(("password", "is_code_right"), [("guess", True), (RIGHT, False), ("", True)])
def test_it_is_not_turned_on_without_both(
    alice_client: Client, alice: User, clock: Clock, password: str, is_code_right: bool
) -> None:
    secret = re.search(r'id="secret">([A-Z2-7]+)<', alice_client.get(PAGE).content.decode())
    assert secret is not None
    code = clock.code(secret[1])
    code = code if is_code_right else f"{(int(code) + 1) % 1_000_000:06}"
    response = alice_client.post(PAGE, {"code": code, "password": password})
    assert response.status_code == 422 and second_factor_of(alice) is None
    assert secret[1] in response.content.decode(), "the secret that was scanned stays"


@pytest.mark.parametrize("keeps", [True, False])
def test_tokens_that_a_password_alone_had_made_are_revoked_unless_they_are_kept(
    alice_client: Client, alice: User, clock: Clock, keeps: bool
) -> None:
    headers = token_headers(alice)
    secret = re.search(r'id="secret">([A-Z2-7]+)<', alice_client.get(PAGE).content.decode())
    assert secret is not None
    data = {"code": clock.code(secret[1]), "password": RIGHT} | ({} if keeps else {"revoke_tokens": "on"})
    assert alice_client.post(PAGE, data).status_code == 200
    assert ApiToken.objects.usable().filter(user=alice).exists() is keeps
    assert Client().get("/api/v1/runs", headers=headers).status_code == (200 if keeps else 401)
    assert Client().get(PAGE, headers=headers).status_code == 302, "a token opens no page, nor this one"


@pytest.mark.parametrize("door", [LOGIN, "/admin/login/"])
def test_the_password_alone_opens_nothing(codes: list[str], alice: User, clock: Clock, door: str) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    client = first_step(f"{door}?next=/admin/")
    for path in ("/accounts/", "/admin/", PAGE, "/accounts/tokens/"):
        assert client.get(path).status_code == 302, path
    assert client.post(STEP, {"code": clock.wrong()}).status_code == 200
    assert not is_in(client)
    assert client.post(STEP, {"code": clock.code()})["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_it_leads_to_the_page_that_was_asked_for_and_to_no_other_site(codes: list[str], clock: Clock) -> None:
    client = first_step(next="/accounts/tokens/")
    assert client.post(STEP, {"code": clock.code()})["Location"] == "/accounts/tokens/"
    clock.counter += 1
    assert first_step(next="https://evil.example/").post(STEP, {"code": clock.code()})["Location"] == "/"


def test_a_code_works_once(codes: list[str], clock: Clock) -> None:
    assert is_in(_through(first_step(), clock.code()))
    assert not is_in(_through(first_step(), clock.code()))
    clock.counter += 1
    assert is_in(_through(first_step(), clock.code()))


def test_nor_does_it_work_again_in_another_process(codes: list[str], clock: Clock) -> None:
    assert is_in(_through(first_step(), clock.code()))
    cache.clear()  # each web process has its own
    assert not is_in(_through(first_step(), clock.code()))
    clock.counter += 1
    assert is_in(_through(first_step(), clock.code()))


def test_a_recovery_code_works_once_and_is_counted(codes: list[str], alice: User, clock: Clock) -> None:
    assert is_in(_through(first_step(), codes[3]))
    assert not is_in(_through(first_step(), codes[3]))
    assert is_in(_through(first_step(), codes[4]))
    factor = second_factor_of(alice)
    assert factor is not None and factor.num_codes_left == 8


def test_the_second_step_is_nobodys_without_the_first(codes: list[str], alice: User, bob: User, clock: Clock) -> None:
    for client in (Client(), signed_in(bob)):
        assert client.get(STEP)["Location"] in {LOGIN, "/"}
        assert client.post(STEP, {"code": clock.code()})["Location"] in {LOGIN, "/"}
    mallory = Client()
    mallory.post(LOGIN, {"username": "bob", "password": "bob's password"})
    assert mallory.get("/accounts/").context["user"] == bob, "who has none is asked for none"


def test_five_wrong_codes_lock_the_name_at_that_address(codes: list[str], clock: Clock) -> None:
    client = first_step()
    answers = [client.post(STEP, {"code": clock.wrong()}).status_code for _ in range(5)]
    assert answers == [200] * 4 + [429]
    refused = client.post(STEP, {"code": clock.code()})
    assert refused.status_code == 429 and "Try again in 15 minutes" in refused.content.decode()
    assert Client().post(LOGIN, {"username": "alice", "password": RIGHT}).status_code == 429
    assert not is_in(client)


def test_many_addresses_do_not_guess_faster(codes: list[str], clock: Clock) -> None:
    for number in range(5):
        client = Client(REMOTE_ADDR=f"192.0.2.{number}")
        client.post(LOGIN, {"username": "alice", "password": RIGHT})
        client.post(STEP, {"code": clock.wrong()})
        cache.clear()  # each was answered by another web process; what they count together is elsewhere
    last = Client(REMOTE_ADDR="192.0.2.99")
    last.post(LOGIN, {"username": "alice", "password": RIGHT})
    assert last.post(STEP, {"code": clock.code()}).status_code == 200
    assert not is_in(last)


def test_signing_in_often_is_no_guessing(codes: list[str], clock: Clock) -> None:
    for _ in range(TRIED_AT_MOST + 1):
        assert is_in(_through(first_step(), clock.code()))
        clock.counter += 1


def test_neither_secret_nor_codes_lie_open_in_the_database(codes: list[str]) -> None:
    kept = str(list(Authenticator.objects.values_list("data", flat=True)))
    assert SECRET not in kept and not any(code in kept for code in codes)


def test_turning_it_off_takes_the_password_and_a_code(codes: list[str], alice_client: Client, alice: User, clock: Clock) -> None:
    off = f"{PAGE}off"
    assert alice_client.post(off, {"password": "guess", "code": codes[0]}).status_code == 422
    assert alice_client.post(off, {"password": RIGHT, "code": clock.wrong()}).status_code == 422
    assert second_factor_of(alice) is not None
    assert alice_client.post(off, {"password": RIGHT, "code": codes[0]}).status_code == 302
    assert second_factor_of(alice) is None
    assert AuditEntry.objects.filter(verb="removed the second factor of", user=alice).count() == 1
    assert Client().post(LOGIN, {"username": "alice", "password": RIGHT})["Location"] == "/"


def test_new_recovery_codes_end_the_former(codes: list[str], alice_client: Client, clock: Clock) -> None:
    shown = alice_client.post(f"{PAGE}codes", {"password": RIGHT, "code": clock.code()}).content.decode()
    new = re.findall(r"^(?:.*>)?(\d{8})$", shown, flags=re.MULTILINE)
    assert len(new) == 10 and not set(new) & set(codes)
    assert not is_in(_through(first_step(), codes[0]))
    assert is_in(_through(first_step(), new[0]))
    assert AuditEntry.objects.filter(verb="made new recovery codes of").count() == 1


def test_an_administrator_removes_a_lost_one_and_other_staff_do_not(codes: list[str], alice: User, admin: User) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(_permissions("change_user", "view_user"))
    for person in (clerk, admin):
        assert second_factor_of(alice) is not None
        data = {"action": "remove_second_factor", "_selected_action": [alice.pk]}
        signed_in(person).post("/admin/accounts/user/", data)
    assert second_factor_of(alice) is None
    entry = AuditEntry.objects.get(verb="removed the second factor of")
    assert (entry.user, entry.thing, entry.door) == (admin, "alice", "admin")


def test_so_does_whoever_runs_the_server(codes: list[str], alice: User) -> None:
    call_command("remove_second_factor", "alice")
    assert second_factor_of(alice) is None
    assert AuditEntry.objects.get(verb="removed the second factor of").user is None
    with pytest.raises(CommandError, match="has no second factor"):
        call_command("remove_second_factor", "alice")
    with pytest.raises(CommandError, match="no user"):
        call_command("remove_second_factor", "nobody")


def test_a_lost_key_is_a_sentence(codes: list[str], clock: Clock, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = ["x" * 40]
    assert "to remove your second factor" in first_step().post(STEP, {"code": clock.code()}).content.decode()


def test_the_sign_in_page_asks_the_database_nothing(alice: User) -> None:
    with CaptureQueriesContext(connection) as queries:
        Client().get(LOGIN)
    assert len(queries) == 0


def _through(client: Client, code: str) -> Client:
    client.post(STEP, {"code": code})
    return client


def _permissions(*names: str) -> list[Any]:
    from django.contrib.auth.models import Permission

    return list(Permission.objects.filter(codename__in=names))
