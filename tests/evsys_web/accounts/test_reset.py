"""A forgotten password: a link by e-mail that says nothing to whoever asked, works once, and opens no second factor."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from smtplib import SMTPServerDisconnected
from typing import Any

import pytest
from allauth.socialaccount.models import SocialAccount
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.core import mail
from django.core.cache import cache, caches
from django.test import Client
from kombu.exceptions import OperationalError

from evsys_web import rates
from evsys_web.accounts import reset
from evsys_web.accounts.models import ApiToken, AuditEntry, User
from evsys_web.accounts.second_factor import turn_on
from evsys_web.accounts.tasks import MOST_RETRIES, send_reset_links
from evsys_web.celery import app
from evsys_web.environment import Oidc
from tests.conftest import signed_in

RESET, LOGIN = "/accounts/reset/", "/accounts/login/"
NEW = "a-much-better-one-9"
pytestmark = pytest.mark.usefixtures("eager_tasks")


@pytest.fixture(autouse=True)
def sends(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.EMAIL_IS_SENT = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    settings.URL = "https://evsys.example"
    caches["rates"].clear()
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_015.0)


def asked(email: str, **where: str) -> Any:
    return Client(**where).post(RESET, {"email": email})  # type: ignore[arg-type]


def link() -> str:
    found = re.search(r"https://evsys\.example(/accounts/reset/\S+)", str(mail.outbox[-1].body))
    assert found is not None
    return found[1]


def choose(path: str, password: str = NEW) -> Any:
    client = Client()
    form = client.get(path, follow=True)
    there = form.redirect_chain[-1][0] if form.redirect_chain else path
    return client.post(there, {"new_password1": password, "new_password2": password})


def test_the_link_sets_a_password_and_ends_what_the_former_had_opened(alice: User) -> None:
    alice_client = signed_in(alice)
    assert "Forgot your password?" in Client().get(LOGIN).content.decode()
    assert asked("Alice@Example.org")["Location"] == LOGIN
    assert mail.outbox[0].to == ["alice@example.org"]
    assert choose(link())["Location"] == LOGIN
    alice.refresh_from_db()
    assert alice.check_password(NEW)
    assert alice_client.get("/accounts/").status_code == 302
    entry = AuditEntry.objects.get()
    assert (entry.verb, entry.user, entry.door) == ("reset the password of", alice, "page")
    assert NEW not in str(entry.changes)


def test_it_works_once_and_not_after_the_password_changed(alice: User) -> None:
    asked("alice@example.org")
    first = link()
    choose(first)
    assert "opens nothing" in choose(first, "another-good-one-7").content.decode()
    asked("alice@example.org")
    alice.refresh_from_db()
    alice.set_password("set meanwhile by herself 5")
    alice.save()
    assert "opens nothing" in choose(link()).content.decode()


def test_it_is_too_old_after_an_hour(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    asked("alice@example.org")
    later = datetime.now() + timedelta(minutes=61)  # noqa: DTZ005 - Django counts so
    monkeypatch.setattr(PasswordResetTokenGenerator, "_now", lambda _: later)
    assert "opens nothing" in choose(link()).content.decode()


def test_what_is_answered_does_not_say_whether_there_is_such_an_account(alice: User, bob: User) -> None:
    bob.set_unusable_password()
    bob.is_active = False
    bob.save()
    answers = [asked(email) for email in ("alice@example.org", "nobody@example.org", "bob@example.org")]
    assert len({(answer.status_code, answer["Location"]) for answer in answers}) == 1
    said = [Client(headers={"cookie": f"messages={answer.cookies['messages'].value}"}).get(LOGIN) for answer in answers]
    assert len({re.findall(r"If there is an account[^<]*", page.content.decode())[0] for page in said}) == 1
    assert [message.to for message in mail.outbox] == [["alice@example.org"]]


def test_a_look_alike_address_gets_no_letter(alice: User) -> None:
    asked("alıce@example.org")
    assert mail.outbox == []


def test_so_many_an_hour_for_an_address_and_from_one(alice: User) -> None:
    answers = [asked("alice@example.org", REMOTE_ADDR=f"192.0.2.{number}").status_code for number in range(4)]
    assert answers == [302, 302, 302, 429] and len(mail.outbox) == 3
    cache.clear()  # another web process: they count together
    assert asked("ALICE@example.org", REMOTE_ADDR="192.0.2.9").status_code == 429
    assert asked("bob@example.org", REMOTE_ADDR="192.0.2.9").status_code == 302
    many = [asked(f"a{number}@example.org", REMOTE_ADDR="192.0.2.50").status_code for number in range(21)]
    assert many == [302] * 20 + [429]


def test_a_weak_password_is_refused(alice: User) -> None:
    asked("alice@example.org")
    assert "too common" in choose(link(), "password").content.decode()


def test_it_opens_no_second_factor(alice: User, project: Any) -> None:
    turn_on(user=alice, secret="JBSWY3DPEHPK3PXP", revoke_tokens=False)
    asked("alice@example.org")
    choose(link())
    client = Client()
    assert client.post(LOGIN, {"username": "alice", "password": NEW})["Location"] == "/accounts/second-step/"
    assert client.get("/accounts/").status_code == 302


def test_tokens_go_on_and_the_page_says_so(alice: User) -> None:
    _, secret = ApiToken.objects.issue(alice, name="nightly")
    asked("alice@example.org")
    client = Client()
    there = client.get(link(), follow=True).redirect_chain[-1][0]
    page = client.post(there, {"new_password1": NEW, "new_password2": NEW}, follow=True).content.decode()
    assert "API tokens still work" in page and ApiToken.objects.matching(secret) is not None


def test_without_e_mail_the_page_says_whom_to_ask(settings: Any, alice: User) -> None:
    settings.EMAIL_IS_SENT = False
    assert "manage.py changepassword" in Client().get(RESET).content.decode()
    assert "manage.py changepassword" in asked("alice@example.org").content.decode()
    assert mail.outbox == []


def test_an_account_that_is_connected_with_single_sign_on_is_told_so(
    alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.OIDC = Oidc("https://login.example", "id", "secret", "Keycloak", [])
    SocialAccount.objects.create(user=alice, provider=settings.OIDC.provider_id, uid="1")
    asked("alice@example.org")
    client = Client()
    there = client.get(link(), follow=True).redirect_chain[-1][0]
    page = client.post(there, {"new_password1": NEW, "new_password2": NEW}, follow=True).content.decode()
    assert "So does signing in with Keycloak" in page


@pytest.mark.parametrize("failing", [3, 99])
def test_a_letter_that_does_not_go_is_tried_again_and_no_other_twice(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    app.conf.task_eager_propagates = False  # a retry is no error
    User.objects.update(email="office@example.org")
    sent: list[str] = []

    def send(_: str, text: str, *__: Any) -> None:
        for_bob = "password for bob" in text
        sent.append("bob" if for_bob else "alice")
        if for_bob and sent.count("bob") < failing:
            raise SMTPServerDisconnected("gone")

    monkeypatch.setattr(reset, "send_mail", send)
    asked("office@example.org")
    assert sorted(sent) == ["alice"] + ["bob"] * min(failing, 1 + MOST_RETRIES)


def test_a_broker_that_is_away_is_a_sentence(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise OperationalError

    monkeypatch.setattr(send_reset_links, "delay", away)
    response = asked("alice@example.org")
    assert response.status_code == 503 and "the queue does not answer" in response.content.decode()
