from __future__ import annotations

import pytest
from django.test import Client

from evsys_web.accounts.models import ApiToken, Membership, Project, User
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
