"""Single sign-on through allauth's client, with a provider on loopback: who gets in, who does not, how accounts are connected."""

from __future__ import annotations

import time
from typing import Any

import pytest
from allauth.mfa.totp.internal import auth
from allauth.socialaccount.models import SocialAccount
from django.contrib.sessions.models import Session
from django.test import Client

from evsys_web import rates
from evsys_web.accounts import freshness, oidc_client, oidc_views
from evsys_web.accounts.member_actions import invite
from evsys_web.accounts.models import AuditEntry, Invitation, Membership, Project, User
from evsys_web.accounts.second_factor import turn_on
from evsys_web.environment import Oidc
from tests.conftest import signed_in
from tests.evsys_web.accounts.conftest import configure, is_in
from tests.oidc_server import FakeProvider

ERIN = {"username": "erin", "email": "erin@example.org"}
pytestmark = pytest.mark.django_db


def connected(user: User, provider: FakeProvider) -> SocialAccount:
    name = Oidc(provider.url, "", "", "", []).provider_id
    return SocialAccount.objects.create(user=user, provider=name, uid=provider.claims["sub"])


def test_without_a_provider_there_is_no_button_and_no_address(client: Client, alice_client: Client) -> None:
    assert "Continue with" not in client.get("/accounts/login/").content.decode()
    assert [client.get(f"/accounts/sso/{page}").status_code for page in ("", "callback/")] == [404, 404]
    assert alice_client.get("/accounts/sso/connect").status_code == 404
    assert "Single sign-on" not in alice_client.get("/accounts/").content.decode()


def test_somebody_of_a_domain_that_is_let_in_gets_an_account_and_keeps_it(client: Client, provider: FakeProvider) -> None:
    page = client.get("/accounts/login/?next=/runs/").content.decode()
    assert 'href="/accounts/sso/?next=/runs/"' in page and "Continue with Keycloak" in page
    assert provider.sign_in(client, start="/accounts/sso/?next=/runs/")["Location"] == "/runs/"
    erin = User.objects.get(**ERIN, first_name="Erin")
    assert client.get("/accounts/").context["user"] == erin and not erin.has_usable_password() and not erin.is_staff
    assert provider.asked["code_challenge_method"] == "S256"
    made = AuditEntry.objects.filter(user=erin).order_by("pk").values_list("verb", "door")
    assert list(made) == [("made", "page"), ("connected single sign-on with", "page"), ("signed in", "page")]
    provider.claims |= {"email": "married@elsewhere.example", "preferred_username": "alice"}
    again = Client()
    assert provider.sign_in(again)["Location"] == "/"
    assert again.get("/accounts/").context["user"] == erin and User.objects.count() == 1


@pytest.mark.parametrize(
    ("claims", "is_let_in"),
    [
        ({"email_verified": False}, False),
        ({"email_verified": "true"}, False),  # a word is no word of honour
        ({"email": "erin@example.org.evil.example"}, False),
        ({"email": "erin@elsewhere.example"}, False),
        ({"email": ""}, False),
        ({"email": "Erin@Example.ORG"}, True),
    ],
)
def test_a_domain_counts_only_if_the_provider_vouches_for_the_address(
    client: Client, provider: FakeProvider, claims: dict[str, Any], is_let_in: bool
) -> None:
    provider.claims |= claims
    response = provider.sign_in(client)
    assert is_in(client) is is_let_in
    assert User.objects.exists() is is_let_in
    if not is_let_in:
        assert response.status_code == 403 and "Nobody invited" in response.content.decode()


@pytest.mark.parametrize("email", ["erin@example.org", ""])  # without one no rule finds the other's account: the database does
def test_two_first_sign_ins_at_once_are_one_account(
    client: Client, provider: FakeProvider, settings: Any, monkeypatch: pytest.MonkeyPatch, email: str
) -> None:
    """Another tab's comes between this one's look for the account and its making of one."""
    configure(settings, provider, "*")
    provider.claims["email"] = email
    other, identity_of = Client(), oidc_client.identity_of

    def later(claims: dict[str, Any]) -> Any:
        monkeypatch.setattr(oidc_client, "identity_of", identity_of)
        assert provider.sign_in(other)["Location"] == "/"
        return identity_of(claims)

    monkeypatch.setattr(oidc_client, "identity_of", later)
    assert provider.sign_in(client)["Location"] == "/"
    assert User.objects.count() == 1 and is_in(client) and is_in(other)


def test_single_sign_on_is_begun_so_many_times_a_minute_from_one_address(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_015.0)
    monkeypatch.setattr(oidc_views, "BEGUN_A_MINUTE", 2)
    for path, otherwise in (("/accounts/sso/", 302), ("/accounts/sso/callback/?code=1", 400)):
        answers = [Client(REMOTE_ADDR="192.0.2.1").get(path) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [otherwise, otherwise, 429]
        assert "too often from your address" in answers[-1].content.decode()
        assert Client(REMOTE_ADDR="192.0.2.2").get(path).status_code == otherwise
    assert Session.objects.count() == 3


def test_a_star_lets_in_everybody_whom_the_provider_knows(client: Client, provider: FakeProvider, settings: Any) -> None:
    configure(settings, provider, "*")
    provider.claims |= {"email_verified": False, "preferred_username": "É<b>rin/ 1"}
    provider.sign_in(client)
    assert (User.objects.get().username, User.objects.get().email) == ("Ébrin1", "")


@pytest.mark.parametrize("domains", [(), ("example.org",), ("*",)])
def test_nobody_takes_over_an_account_by_its_address_or_name(
    client: Client, provider: FakeProvider, settings: Any, alice: User, domains: tuple[str, ...]
) -> None:
    configure(settings, provider, *domains)
    provider.claims |= {"email": "ALICE@example.org", "preferred_username": "alice"}
    response = provider.sign_in(client)
    assert response.status_code == 403 and "connect Keycloak with it on your account page" in response.content.decode()
    provider.claims |= {"email_verified": False}
    provider.sign_in(client)
    assert client.get("/accounts/").context is None or client.get("/accounts/").context["user"] != alice
    assert not SocialAccount.objects.filter(user=alice).exists()


def test_an_invitation_to_the_address_opens(client: Client, provider: FakeProvider, settings: Any, project: Project) -> None:
    configure(settings, provider)
    invite(user=project.memberships.get().user, project=project, role="editor", email="erin@example.org")
    provider.claims["email_verified"] = False
    assert provider.sign_in(client).status_code == 403
    provider.claims["email_verified"] = True
    assert provider.sign_in(client)["Location"] == "/"
    assert Membership.objects.get(project=project, user__username="erin").role == "editor"
    assert not Invitation.objects.open().exists()


def test_so_does_the_link_of_one_once(
    client: Client, provider: FakeProvider, settings: Any, project: Project, alice: User
) -> None:
    configure(settings, provider)
    link = invite(user=alice, project=project, role="viewer").link.removeprefix(settings.URL)
    assert f'href="/accounts/sso/?next={link}"' in client.get(link).content.decode()
    provider.claims["email"] = ""
    assert provider.sign_in(client, start=f"/accounts/sso/?next={link}")["Location"] == "/"
    assert Membership.objects.filter(project=project, user__username="erin").exists()
    provider.claims |= {"sub": "somebody-else", "preferred_username": "frank"}
    assert provider.sign_in(Client(), start=f"/accounts/sso/?next={link}").status_code == 403
    assert not User.objects.filter(username="frank").exists()


def test_an_inviter_who_may_not_let_people_in_any_more_lets_nobody_in(
    client: Client, provider: FakeProvider, settings: Any, project: Project, alice: User
) -> None:
    configure(settings, provider)
    invite(user=alice, project=project, role="editor", email="erin@example.org")
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert provider.sign_in(client).status_code == 403
    assert not User.objects.filter(username="erin").exists()


def test_a_person_connects_their_account_after_the_password(alice_client: Client, provider: FakeProvider, alice: User) -> None:
    assert alice_client.get("/accounts/sso/")["Location"] == "/", "not without the password"
    assert alice_client.post("/accounts/sso/connect", {"password": "guess"}).status_code == 422
    assert alice_client.get("/accounts/sso/")["Location"] == "/"
    assert (
        'href="/accounts/sso/"' in alice_client.post("/accounts/sso/connect", {"password": "alice's password"}).content.decode()
    )
    assert provider.sign_in(alice_client)["Location"] == "/accounts/"
    assert SocialAccount.objects.get().user == alice
    assert "connected with Keycloak" in alice_client.get("/accounts/").content.decode()
    other = Client()
    provider.sign_in(other)
    assert other.get("/accounts/").context["user"] == alice
    alice_client.post("/accounts/sso/disconnect")
    assert not SocialAccount.objects.exists()
    verbs = AuditEntry.objects.filter(user=alice).values_list("verb", flat=True)
    assert set(verbs) >= {"connected single sign-on with", "disconnected single sign-on from"}


def test_a_password_that_was_said_long_ago_connects_nothing(
    alice_client: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice_client.post("/accounts/sso/connect", {"password": "alice's password"})
    long_after = time.time() + 3600
    monkeypatch.setattr(freshness.time, "time", lambda: long_after)
    assert alice_client.get("/accounts/sso/")["Location"] == "/"


def test_an_identity_is_one_persons(
    alice_client: Client, bob_client: Client, provider: FakeProvider, alice: User, bob: User
) -> None:
    connected(alice, provider)
    bob_client.post("/accounts/sso/connect", {"password": "bob's password"})
    assert "with another account" in provider.sign_in(bob_client).content.decode()
    assert SocialAccount.objects.get().user == alice


def test_what_one_person_began_does_not_connect_anothers_account(
    client: Client, provider: FakeProvider, alice: User, bob: User
) -> None:
    client.force_login(alice)
    client.post("/accounts/sso/connect", {"password": "alice's password"})
    back = provider.sign_in(client, follow=False)
    client.force_login(bob)
    assert client.get(back).status_code in {400, 403}
    assert not SocialAccount.objects.exists()


def test_who_has_no_password_keeps_the_only_way_in(client: Client, provider: FakeProvider) -> None:
    provider.sign_in(client)
    client.post("/accounts/sso/disconnect")
    assert SocialAccount.objects.exists()
    assert "without single sign-on nobody" in client.get("/accounts/").content.decode()


def test_the_second_factor_is_asked_for_this_way_too(
    client: Client, provider: FakeProvider, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "yield_hotp_counters_from_time", lambda: iter([56_000_000]))
    connected(alice, provider)
    code = turn_on(user=alice, secret="JBSWY3DPEHPK3PXP", revoke_tokens=False)[0]
    assert provider.sign_in(client, start="/accounts/sso/?next=/runs/")["Location"] == "/accounts/second-step/"
    assert not is_in(client)
    assert client.post("/accounts/second-step/", {"code": code})["Location"] == "/runs/"
    assert is_in(client)


def test_who_came_without_a_password_turns_on_a_second_factor_right_after(client: Client, provider: FakeProvider) -> None:
    provider.sign_in(client)
    assert "password" not in client.get("/accounts/second-factor/").context["turn_on"].fields
    late = signed_in(User.objects.get())  # no note of a sign-in a moment ago
    assert "come back within 10 minutes" in late.post("/accounts/second-factor/", {"code": "1"}).content.decode()


def test_a_blocked_person_does_not_get_in(client: Client, provider: FakeProvider, alice: User) -> None:
    connected(alice, provider)
    User.objects.update(is_active=False)
    response = provider.sign_in(client)
    assert response.status_code == 403 and "blocked" in response.content.decode()
    assert not is_in(client)


def test_another_issuer_is_somebody_else(client: Client, provider: FakeProvider, settings: Any, alice: User) -> None:
    """The same `sub`, in numbers as some providers count, of the provider that was configured before."""
    SocialAccount.objects.create(user=alice, provider=Oidc("https://former.example", "", "", "", []).provider_id, uid="1")
    provider.claims["sub"] = "1"
    provider.sign_in(client)
    assert client.get("/accounts/").context["user"].username == "erin"
