from __future__ import annotations

import re
from datetime import timedelta

from django.test import Client
from django.utils.timezone import now

from evsys_web.accounts.models import ApiToken, Scope, User

PAGE = "/accounts/tokens/"


def create(client: Client, **changes: str) -> str:
    data = {"name": "laptop", "scope": "write", "expiry": "30", **changes}
    return client.post(PAGE, data).content.decode()


def secret_in(page: str) -> str:
    found = re.search(r'<code id="secret">(evs_[\w-]+)</code>', page)
    assert found, "the page shows no secret"
    return found[1]


def test_a_new_token_is_shown_once_and_stored_only_as_a_hash(alice_client: Client, alice: User) -> None:
    secret = secret_in(create(alice_client))
    token = ApiToken.objects.get(user=alice)
    assert secret not in str(vars(token))
    assert ApiToken.objects.matching(secret) == token
    assert secret not in alice_client.get(PAGE).content.decode()


def test_the_page_with_the_secret_is_not_kept_by_the_browser(alice_client: Client) -> None:
    response = alice_client.post(PAGE, {"name": "laptop", "scope": "read", "expiry": ""})
    assert "no-store" in response["Cache-Control"]


def test_it_expires_when_the_form_said(alice_client: Client, alice: User) -> None:
    create(alice_client, expiry="7")
    expires_at = ApiToken.objects.get(user=alice).expires_at
    assert expires_at is not None
    assert timedelta(days=6, hours=23) < expires_at - now() <= timedelta(days=7)


def test_a_page_sent_twice_makes_one_token(alice_client: Client, alice: User) -> None:
    create(alice_client)
    again = create(alice_client)
    assert "already have a token with this name" in again
    assert ApiToken.objects.filter(user=alice).count() == 1


def test_an_unknown_scope_is_refused(alice_client: Client) -> None:
    assert "not one of the available choices" in create(alice_client, scope="admin")
    assert not ApiToken.objects.exists()


def test_a_revoked_token_opens_nothing(alice_client: Client, alice: User) -> None:
    token, secret = ApiToken.objects.issue(alice, name="old")
    alice_client.post(f"{PAGE}{token.pk}/revoke/")
    assert ApiToken.objects.matching(secret) is None
    assert "revoked" in alice_client.get(PAGE).content.decode()


def test_a_stranger_cannot_revoke_it(mallory_client: Client, alice: User) -> None:
    token, secret = ApiToken.objects.issue(alice, name="hers")
    assert mallory_client.post(f"{PAGE}{token.pk}/revoke/").status_code == 404
    assert ApiToken.objects.matching(secret) == token


def test_a_stranger_does_not_see_it(mallory_client: Client, alice: User) -> None:
    token, _ = ApiToken.objects.issue(alice, name="hers")
    assert token.prefix not in mallory_client.get(PAGE).content.decode()


def test_an_expired_token_and_that_of_a_blocked_person_open_nothing(alice: User) -> None:
    _, expired = ApiToken.objects.issue(alice, name="expired", expires_at=now() - timedelta(seconds=1))
    _, fresh = ApiToken.objects.issue(alice, name="fresh", scope=Scope.READ)
    assert ApiToken.objects.matching(expired) is None
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert ApiToken.objects.matching(fresh) is None


def test_a_name_with_markup_is_shown_as_text(alice_client: Client) -> None:
    create(alice_client, name="<script>alert(1)</script>")
    page = alice_client.get(PAGE).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_its_use_is_noted_at_most_once_a_minute(alice: User) -> None:
    token, _ = ApiToken.objects.issue(alice, name="t")
    ApiToken.objects.touch(token.pk)
    token.refresh_from_db()
    first = token.last_used_at
    assert first is not None
    ApiToken.objects.touch(token.pk)
    token.refresh_from_db()
    assert token.last_used_at == first
