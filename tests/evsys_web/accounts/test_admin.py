from __future__ import annotations

import pytest
from django.contrib import admin as admin_sites
from django.contrib.auth.models import Permission
from django.test import Client, RequestFactory

from evsys_web.accounts.admin import Audited
from evsys_web.accounts.models import ApiToken, AuditEntry, Membership, Project, User
from tests.conftest import signed_in


@pytest.fixture
def staff(admin: User) -> Client:
    return signed_in(admin)


def test_it_is_for_staff_only(alice_client: Client) -> None:
    response = alice_client.get("/admin/")
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


def test_it_has_no_sign_in_of_its_own_and_says_to_others_that_it_is_for_staff(client: Client, alice_client: Client) -> None:
    assert client.get("/admin/login/?next=/admin/runs/")["Location"] == "/accounts/login/?next=/admin/runs/"
    refused = alice_client.get("/admin/", follow=True)
    assert refused.status_code == 403 and "The admin is for staff" in refused.content.decode()


def test_what_allauth_stores_is_not_written_by_hand(staff: Client) -> None:
    for path in ("mfa/authenticator/", "socialaccount/socialapp/", "socialaccount/socialaccount/", "usersessions/usersession/"):
        assert staff.get(f"/admin/{path}").status_code == 404


def test_datasets_stand_first_and_people_last(staff: Client) -> None:
    apps = [app["app_label"] for app in staff.get("/admin/").context["app_list"]]
    assert apps == ["datasets", "runs", "sweeps", "evals", "curation", "cycles", "notifications", "accounts"]


def test_whatever_can_be_written_here_leaves_an_entry_in_the_audit_log(admin: User) -> None:
    request = RequestFactory().get("/admin/")
    request.user = admin
    for site in admin_sites.site._registry.values():
        asked = (site.has_add_permission(request), site.has_change_permission(request), site.has_delete_permission(request))
        assert not any(asked) or isinstance(site, Audited), type(site).__name__


def test_it_wears_our_colours_and_the_strict_policy(staff: Client) -> None:
    response = staff.get("/admin/accounts/user/")
    page = response.content.decode()
    assert "css/admin.css" in page
    assert "admin/js/theme.js" not in page
    assert "unsafe" not in response["Content-Security-Policy"]


def test_a_tokens_secret_and_its_hash_cannot_be_read(staff: Client, alice: User) -> None:
    token, secret = ApiToken.objects.issue(alice, name="hers")
    for path in ("/admin/accounts/apitoken/", f"/admin/accounts/apitoken/{token.pk}/change/"):
        page = staff.get(path).content.decode()
        assert token.prefix in page
        assert secret not in page
        assert token.digest not in page


EVERYBODYS = {"last_login_0": "", "date_joined_0": "2026-11-26", "date_joined_1": "12:00:00", "is_active": "on"}
"""Of the form of a person: what it always sends."""


@pytest.fixture
def clerk(db: None) -> User:
    """Staff who may do with people all that the admin's permissions name."""
    clerk = User.objects.create_user("clerk", "clerk@example.org", "clerk's password", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(content_type__app_label="accounts", codename__endswith="user"))
    return clerk


def test_staff_who_change_people_make_nobody_staff_and_do_not_grant_rights(clerk: User, alice: User) -> None:
    permission = Permission.objects.get(codename="delete_project")
    grabbed = {"is_staff": "on", "is_superuser": "on", "user_permissions": [permission.pk]}
    form = EVERYBODYS | {"username": "alice", "email": "new@example.org"} | grabbed
    assert signed_in(clerk).post(f"/admin/accounts/user/{alice.pk}/change/", form).status_code == 302
    alice.refresh_from_db()
    assert alice.email == "new@example.org", "that much is their work"
    assert (alice.is_staff, alice.is_superuser, alice.user_permissions.count()) == (False, False, 0)


@pytest.mark.parametrize("whose", ["admin", "clerk", "colleague"])
def test_staff_take_over_neither_their_superiors_nor_each_other(clerk: User, admin: User, whose: str) -> None:
    User.objects.create_user("colleague", "colleague@example.org", "colleague's password", is_staff=True)
    person = User.objects.get(username=whose)
    client, there = signed_in(clerk), f"/admin/accounts/user/{person.pk}"
    before = list(User.objects.filter(pk=person.pk).values())
    new = {"password1": "a-much-better-one-9", "password2": "a-much-better-one-9", "usable_password": "true"}
    form = EVERYBODYS | {"username": whose, "email": "clerks-own@example.org", "is_superuser": "on", "is_staff": "on"}
    chosen = {"action": "delete_selected", "_selected_action": [person.pk], "post": "yes"}
    for path, data in (
        (f"{there}/change/", form),
        (f"{there}/password/", new),
        (f"{there}/delete/", {"post": "yes"}),
        ("/admin/accounts/user/", chosen),
    ):
        client.post(path, data)
        assert list(User.objects.filter(pk=person.pk).values()) == before, path


def test_a_superuser_grants_rights_and_the_audit_log_says_which(staff: Client, alice: User) -> None:
    permission = Permission.objects.get(codename="view_auditentry")
    form = EVERYBODYS | {"username": "alice", "email": "alice@example.org", "is_staff": "on", "user_permissions": [permission.pk]}
    assert staff.post(f"/admin/accounts/user/{alice.pk}/change/", form).status_code == 302
    changes = dict(AuditEntry.objects.filter(thing="alice").values_list("verb", "changes"))
    assert changes["changed"]["is_staff"] == [False, True]
    assert changes["changed the permissions of"] == {"user_permissions": [[], ["view_auditentry"]]}


def test_staff_revoke_a_token_but_make_none(staff: Client, alice: User) -> None:
    token, secret = ApiToken.objects.issue(alice, name="hers")
    assert staff.get("/admin/accounts/apitoken/add/").status_code == 403
    staff.post("/admin/accounts/apitoken/", {"action": "revoke", "_selected_action": [token.pk]})
    assert ApiToken.objects.matching(secret) is None


def test_staff_put_a_person_into_a_project(staff: Client, project: Project, mallory: User) -> None:
    member = Membership.objects.get(project=project)
    form = {
        "name": "Sums",
        "memberships-TOTAL_FORMS": 2,
        "memberships-INITIAL_FORMS": 1,
        "memberships-0-id": member.pk,
        "memberships-0-project": project.pk,
        "memberships-0-user": member.user_id,
        "memberships-0-role": "admin",
        "memberships-1-project": project.pk,
        "memberships-1-user": mallory.pk,
        "memberships-1-role": "viewer",
    }
    assert staff.post(f"/admin/accounts/project/{project.pk}/change/", form).status_code == 302
    assert Project.objects.visible_to(mallory).filter(pk=project.pk).exists()
