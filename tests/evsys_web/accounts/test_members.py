"""People of a project: roles, leaving, the last admin, and invitations that work once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.core.cache import caches
from django.test import Client
from django.utils.timezone import now

from evsys_web import rates
from evsys_web.accounts import member_actions
from evsys_web.accounts.member_actions import invite, remove_member
from evsys_web.accounts.models import AuditEntry, Invitation, Membership, Project, Role, User
from recipes.errors import ConfigError

PASSWORD = "a-much-better-one-9"


def roles(project: Project) -> dict[str, str]:
    return project.roles()


def membership(project: Project, user: User) -> Membership:
    found: Membership = Membership.objects.get(project=project, user=user)
    return found


def link_in(page: str) -> str:
    found = re.search(r'<code id="secret">http://[^/]+(/accounts/invitations/[\w-]+/)</code>', page)
    assert found, page
    return found[1]


def invited(client: Client, project: Project, **typed: str) -> str:
    return link_in(client.post(f"/accounts/projects/{project.pk}/invitations/", {"role": "editor", **typed}).content.decode())


def test_everybody_inside_sees_who_is_inside_and_only_admins_see_what_they_can_change(
    alice_client: Client, carol_client: Client, mallory_client: Client, project: Project, bob: User
) -> None:
    url = f"/accounts/projects/{project.pk}/"
    for client, offered in ((alice_client, True), (carol_client, False)):
        page = client.get(url).content.decode()
        assert "bob" in page and ("Invite somebody" in page) is offered and ('data-confirm-action="Remove"' in page) is offered
    assert mallory_client.get(url).status_code == 404


def test_an_admin_changes_roles_and_the_last_admin_stays(alice_client: Client, project: Project, alice: User, bob: User) -> None:
    url = f"/accounts/projects/{project.pk}/members"
    own = membership(project, alice).pk
    for deed, body in ((f"{url}/{own}/role", {"role": "viewer"}), (f"{url}/{own}/remove", {})):
        assert "last admin" in alice_client.post(deed, body, follow=True).content.decode()
    alice_client.post(f"{url}/{membership(project, bob).pk}/role", {"role": "admin"})
    assert roles(project) == {"alice": "admin", "bob": "admin"}
    alice_client.post(f"{url}/{own}/remove")
    assert roles(project) == {"bob": "admin"}
    assert [entry.verb for entry in AuditEntry.objects.order_by("pk")] == ["changed the role of", "left"]


def test_an_unknown_role_is_refused_and_members_of_other_projects_are_not_there(
    alice_client: Client, project: Project, bob: User, mallory: User
) -> None:
    url = f"/accounts/projects/{project.pk}/members"
    refused = alice_client.post(f"{url}/{membership(project, bob).pk}/role", {"role": "owner"}, follow=True)
    assert "Choose a role" in refused.content.decode() and roles(project)["bob"] == "editor"
    foreign = Membership.objects.get(user=mallory)
    assert alice_client.post(f"{url}/{foreign.pk}/remove").status_code == 404
    assert Membership.objects.filter(pk=foreign.pk).exists()


def test_an_editor_leaves_by_herself_and_removes_nobody(bob_client: Client, project: Project, alice: User, bob: User) -> None:
    url = f"/accounts/projects/{project.pk}/members"
    assert bob_client.post(f"{url}/{membership(project, alice).pk}/remove").status_code == 403
    assert bob_client.post(f"{url}/{membership(project, bob).pk}/remove").status_code == 302
    assert roles(project) == {"alice": "admin"} and bob_client.get(f"/accounts/projects/{project.pk}/").status_code == 404


def test_a_link_makes_an_account_once(alice_client: Client, project: Project) -> None:
    link = invited(alice_client, project)
    assert "Join Sums" in Client().get(link).content.decode()
    typed = {"username": "erin", "password1": PASSWORD, "password2": PASSWORD}
    newcomer = Client()
    assert newcomer.post(link, typed).status_code == 302
    assert newcomer.get("/").status_code == 200 and roles(project)["erin"] == "editor"
    again = Client().post(link, typed | {"username": "frank"})
    assert again.status_code == 410 and not User.objects.filter(username="frank").exists()


def test_a_weak_password_or_a_taken_name_makes_no_account_and_leaves_the_link_open(
    alice_client: Client, project: Project, bob: User
) -> None:
    link = invited(alice_client, project)
    for typed, said in (
        ({"username": "erin", "password1": "password", "password2": "password"}, "too common"),
        ({"username": "bob", "password1": PASSWORD, "password2": PASSWORD}, "already exists"),
    ):
        refused = Client().post(link, typed)
        assert refused.status_code == 422 and said in refused.content.decode()
    assert Invitation.objects.open().count() == 1 and not User.objects.filter(username="erin").exists()


def test_somebody_with_an_account_joins_as_themselves_and_keeps_the_higher_role(
    alice: User, project: Project, mallory_client: Client, bob_client: Client
) -> None:
    for client in (mallory_client, bob_client):
        link = invite(user=alice, project=project, role=Role.VIEWER).link
        client.post("/" + link.split("/", 3)[3])
    assert roles(project) == {"alice": "admin", "mallory": "viewer", "bob": "editor"}


def test_a_withdrawn_an_outdated_and_a_made_up_link_open_nothing(alice_client: Client, project: Project) -> None:
    withdrawn, outdated = invited(alice_client, project), invited(alice_client, project)
    first, second = Invitation.objects.order_by("pk")
    alice_client.post(f"/accounts/projects/{project.pk}/invitations/{first.pk}/withdraw")
    Invitation.objects.filter(pk=second.pk).update(expires_at=now() - timedelta(seconds=1))
    for link in (withdrawn, outdated, "/accounts/invitations/made-up/"):
        assert Client().get(link).status_code == 410


def test_the_link_is_stored_as_a_hash_and_sent_when_e_mail_is(alice_client: Client, project: Project, settings: Any) -> None:
    settings.EMAIL_IS_SENT = True
    page = alice_client.post(f"/accounts/projects/{project.pk}/invitations/", {"role": "viewer", "email": "erin@example.org"})
    link = link_in(page.content.decode())
    assert link in mail.outbox[0].body and mail.outbox[0].to == ["erin@example.org"]
    secret = link.rstrip("/").rpartition("/")[2]
    assert secret not in str(Invitation.objects.values()) and secret not in str(AuditEntry.objects.values())


def test_nobody_fills_mailboxes_with_invitations(
    alice: User, project: Project, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.EMAIL_IS_SENT = True
    caches["rates"].clear()
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_015.0)
    monkeypatch.setattr(member_actions, "LETTERS_AN_HOUR", 2)
    elsewhere = Project.objects.create_for(alice, name="Another, made for this")
    invited = [
        invite(user=alice, project=where, role=Role.VIEWER, email="erin@example.org") for where in (project, elsewhere, project)
    ]
    assert [each.was_sent for each in invited] == [True, True, False] and len(mail.outbox) == 2
    assert invited[-1].link.startswith(settings.URL), "it is shown instead"


def test_a_token_does_the_same(client: Client, alice_headers: dict[str, str], project: Project, bob: User) -> None:
    url = f"/api/v1/projects/{project.pk}"
    kind = {"content_type": "application/json", "headers": alice_headers}
    made = client.post(f"{url}/invitations", {"role": "viewer"}, **kind)
    assert made.status_code == 201 and "/accounts/invitations/" in made.json()["link"]
    assert "link" not in client.get(f"{url}/invitations", headers=alice_headers).json()[0]
    of_bob = membership(project, bob).pk
    assert client.patch(f"{url}/members/{of_bob}", {"role": "viewer"}, **kind).json()["role"] == "viewer"
    refused = client.patch(f"{url}/members/{of_bob}", {"role": "owner"}, **kind)
    assert refused.status_code == 422
    assert client.delete(f"{url}/members/{of_bob}", headers=alice_headers).status_code == 204


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb"])
def test_a_project_needs_a_name(alice_client: Client, alice: User, name: str) -> None:
    alice_client.post("/accounts/projects/new", {"name": name})
    assert Project.objects.filter(memberships__user=alice).count() == 1


def test_a_link_dies_with_the_rights_of_whoever_made_it(alice_client: Client, project: Project, alice: User, bob: User) -> None:
    Membership.objects.filter(project=project, user=bob).update(role=Role.ADMIN)
    kept = invite(user=bob, project=project, role=Role.ADMIN)
    alice_client.post(f"/accounts/projects/{project.pk}/members/{membership(project, bob).pk}/remove")
    path = re.sub(r"https?://[^/]+", "", kept.link)
    back = Client()
    back.force_login(bob)
    answer = back.post(path)
    assert answer.status_code == 410 and "opens nothing" in answer.content.decode()
    assert roles(project) == {"alice": "admin"}
    assert Invitation.objects.open().filter(pk=kept.invitation.pk).exists(), "refused, not used up"


def test_who_was_removed_by_another_admin_meanwhile_is_refused_in_a_sentence(project: Project, alice: User, bob: User) -> None:
    gone = membership(project, bob)
    Membership.objects.filter(pk=gone.pk).delete()
    with pytest.raises(ConfigError, match="not in the project any more"):
        remove_member(user=alice, membership=gone)


def test_an_address_longer_than_its_column_is_refused_in_the_form(alice_client: Client, project: Project) -> None:
    address = f"{'a' * 60}@{'.'.join(['b' * 60] * 4)}.example.org"
    answer = alice_client.post(f"/accounts/projects/{project.pk}/invitations/", {"role": "editor", "email": address})
    assert "at most 254 characters" in answer.content.decode() and not Invitation.objects.exists()
