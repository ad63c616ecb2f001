"""Where a person is signed in, and how that ends."""

from __future__ import annotations

from datetime import timedelta

import pytest
from allauth.usersessions.models import UserSession
from axes.models import AccessAttempt
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils.timezone import now

from evsys_web.accounts import tasks
from evsys_web.accounts.models import AuditEntry, IdempotencyRecord, User
from evsys_web.accounts.sessions import browser_name
from tests.conftest import signed_in

PAGE = "/accounts/sessions/"


def browser(name: str, username: str = "alice", address: str = "192.0.2.1") -> Client:
    client = Client(headers={"user-agent": name}, REMOTE_ADDR=address)
    client.post("/accounts/login/", {"username": username, "password": f"{username}'s password"})
    return client


def is_in(client: Client) -> bool:
    return client.get("/accounts/").status_code == 200


def test_the_list_shows_this_browser_first_and_what_others_call_themselves(alice: User, bob: User) -> None:
    browser("<b>phone</b>", address="192.0.2.7")
    here = browser("Desktop")
    browser("Bob's", "bob")
    page = here.get(PAGE).content.decode()
    assert page.index("Desktop") < page.index("&lt;b&gt;phone") and "192.0.2.7" in page
    assert "Bob" not in page and page.count("this one") == 1


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (like Gecko) Chrome/140.0 Safari/537.36",
            "Chrome on Android",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605 Version/19 Safari/604.1",
            "Safari on iPhone",
        ),
        ("curl/8", "curl/8"),
        ("", "a browser that says nothing about itself"),
    ],
)
def test_a_browser_is_called_by_what_it_says(said: str, name: str) -> None:
    assert browser_name(said) == name


def test_one_is_signed_out_by_its_owner_alone(alice: User, bob: User) -> None:
    phone, here, bobs = browser("Phone"), browser("Desktop"), browser("Bob's", "bob")
    there = UserSession.objects.get(user_agent="Phone")
    assert bobs.post(f"{PAGE}{there.pk}/end").status_code == 404
    assert is_in(phone)
    assert here.post(f"{PAGE}{there.pk}/end")["Location"] == PAGE
    assert not is_in(phone) and is_in(here) and is_in(bobs)
    entry = AuditEntry.objects.get(verb="signed out", kind="user session")
    assert (entry.user, entry.kind) == (alice, "user session")
    mine = UserSession.objects.get(user_agent="Desktop")
    assert here.post(f"{PAGE}{mine.pk}/end").status_code == 404, "there is a button for signing out"


def test_all_others_at_once_with_those_that_are_on_no_list(alice: User, bob: User) -> None:
    older, phone, here, bobs = signed_in(alice), browser("Phone"), browser("Desktop"), browser("Bob's", "bob")
    assert here.post(f"{PAGE}others/end", follow=True).content.decode().count("Signed out: 2 other browsers") == 1
    assert [is_in(client) for client in (older, phone, here, bobs)] == [False, False, True, True]
    assert AuditEntry.objects.get(verb="signed out the other browsers of").changes == {"sessions": [None, 2]}
    assert "nowhere else" in here.post(f"{PAGE}others/end", follow=True).content.decode()


def test_a_new_password_takes_the_others_off_the_list(alice: User) -> None:
    browser("Phone")
    here = browser("Desktop")
    new = "a-much-better-one-9"
    here.post("/accounts/password/", {"old_password": "alice's password", "new_password1": new, "new_password2": new})
    page = here.get(PAGE).content.decode()
    assert "Phone" not in page and page.count("this one") == 1


def test_a_session_ends_by_itself_and_is_swept_up(alice: User) -> None:
    phone, here = browser("Phone"), browser("Desktop")
    key = UserSession.objects.get(user_agent="Phone").session_key
    Session.objects.filter(pk=key).update(expire_date=now() - timedelta(seconds=1))
    assert not is_in(phone) and is_in(here)
    tasks._swept_at.clear()
    tasks.sweep("worker")
    assert not Session.objects.filter(pk=key).exists()
    assert list(UserSession.objects.values_list("user_agent", flat=True)) == ["Desktop"]


def test_so_is_what_is_kept_for_a_day_and_nobody_asks_for_again(alice: User) -> None:
    for key, hours in (("old", 25), ("new", 1)):
        made_at = now() - timedelta(hours=hours)
        IdempotencyRecord.objects.create(user=alice, key=key, request_hash="", status=201, created_at=made_at)
        attempt = AccessAttempt.objects.create(username=key, failures_since_start=1)
        AccessAttempt.objects.filter(pk=attempt.pk).update(attempt_time=now() - timedelta(minutes=hours))
    tasks._swept_at.clear()
    tasks.sweep("worker")
    assert [each.key for each in IdempotencyRecord.objects.all()] == ["new"]
    assert [each.username for each in AccessAttempt.objects.all()] == ["new"]
