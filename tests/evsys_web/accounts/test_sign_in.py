from __future__ import annotations

import pytest
from axes.models import AccessAttempt
from django.test import Client

from evsys_web.accounts.actions import ensure_admin
from evsys_web.accounts.models import Project, User
from tests.conftest import signed_in


def test_the_right_password_opens_the_page_that_was_asked_for(client: Client, alice: User) -> None:
    assert client.get("/accounts/tokens/")["Location"] == "/accounts/login/?next=/accounts/tokens/"
    response = client.post("/accounts/login/?next=/accounts/tokens/", {"username": "alice", "password": "alice's password"})
    assert response["Location"] == "/accounts/tokens/"


def test_a_wrong_password_is_refused_in_words_and_named_to_screen_readers(client: Client, alice: User) -> None:
    page = client.post("/accounts/login/", {"username": "alice", "password": "guess"}).content.decode()
    assert "correct username and password" in page
    assert 'role="alert"' in page


def test_it_does_not_lead_to_another_site(client: Client, alice: User) -> None:
    data = {"username": "alice", "password": "alice's password", "next": "https://evil.example/"}
    assert client.post("/accounts/login/", data)["Location"] == "/"


def test_a_blocked_person_cannot_sign_in(client: Client, alice: User) -> None:
    User.objects.update(is_active=False)
    assert client.post("/accounts/login/", {"username": "alice", "password": "alice's password"}).status_code == 200


def test_signing_out_needs_a_post(alice_client: Client) -> None:
    assert alice_client.get("/accounts/logout/").status_code == 405
    assert alice_client.post("/accounts/logout/").status_code == 302
    assert alice_client.get("/").status_code == 302


def test_a_form_without_its_csrf_token_changes_nothing(alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    response = client.post("/accounts/", {"first_name": "Mallory"})
    assert response.status_code == 403
    assert "too old to send" in response.content.decode()


def test_a_profile_keeps_what_was_typed_and_refuses_a_bad_address(alice_client: Client, alice: User) -> None:
    new = {"first_name": "Alice", "last_name": "L", "email": "a@example.org", "password": "alice's password"}
    alice_client.post("/accounts/", new)
    alice.refresh_from_db()
    assert (alice.first_name, alice.email) == ("Alice", "a@example.org")
    page = alice_client.post("/accounts/", {"first_name": "Alice", "email": "nowhere"}).content.decode()
    assert 'aria-describedby="id_email_error"' in page
    assert 'id="id_email_error"' in page


@pytest.mark.parametrize("password", ["", "guess"])
def test_another_address_takes_the_password_and_a_name_does_not(alice_client: Client, alice: User, password: str) -> None:
    """Else whoever finds a browser open reads the link to a new password."""
    former = alice.email
    new = {"first_name": "Alice", "email": "mallory@evil.example", "password": password}
    response = alice_client.post("/accounts/", new)
    assert 'id="id_password_error"' in response.content.decode()
    alice.refresh_from_db()
    assert (alice.first_name, alice.email) == ("", former)
    assert alice_client.post("/accounts/", {"first_name": "Alice", "email": former}).status_code == 302
    assert AccessAttempt.objects.count() == (1 if password else 0)
    User.objects.filter(pk=alice.pk).update(password="!none")  # of single sign-on: no link is sent to them
    page = signed_in(User.objects.get(pk=alice.pk)).post("/accounts/", {"email": "new@example.org"})
    assert page.status_code == 302 and User.objects.get(pk=alice.pk).email == "new@example.org"


def test_guesses_of_the_former_password_are_counted_and_not_kept(alice_client: Client, alice: User) -> None:
    data = {"old_password": "a guess of mine", "new_password1": "chosen-by-mallory-9", "new_password2": "chosen-by-mallory-9"}
    answers = [alice_client.post("/accounts/password/", data).status_code for _ in range(6)]
    assert answers[0] == 200 and answers[-1] == 429
    data["old_password"] = "alice's password"
    assert alice_client.post("/accounts/password/", data).status_code == 429, "not even the right one, for a while"
    kept = AccessAttempt.objects.get().post_data
    assert "guess" not in kept and "mallory" not in kept


def test_the_admin_changes_no_password_beside_the_page_that_notes_it(admin: User) -> None:
    assert signed_in(admin).get("/admin/password_change/")["Location"] == "/accounts/password/"


def test_changing_the_password_signs_out_other_browsers(alice_client: Client, alice: User) -> None:
    other = Client()
    other.force_login(alice)
    new = "a-much-better-one-9"
    data = {"old_password": "alice's password", "new_password1": new, "new_password2": new}
    assert alice_client.post("/accounts/password/", data).status_code == 302
    assert alice_client.get("/accounts/").status_code == 200
    assert other.get("/accounts/").status_code == 302


def test_a_weak_password_is_refused(alice_client: Client, alice: User) -> None:
    data = {"old_password": "alice's password", "new_password1": "password", "new_password2": "password"}
    assert "too common" in alice_client.post("/accounts/password/", data).content.decode()
    alice.refresh_from_db()
    assert alice.check_password("alice's password")


@pytest.mark.django_db
def test_the_first_start_makes_an_administrator_with_a_password_of_its_own() -> None:
    first = ensure_admin()
    assert first.password is not None
    assert len(first.password) >= 16
    assert first.user.check_password(first.password)
    assert first.user.is_superuser
    assert Project.objects.visible_to(first.user).exists()


@pytest.mark.django_db
def test_the_second_start_makes_nothing_and_knows_no_password() -> None:
    first = ensure_admin()
    again = ensure_admin()
    assert again.user == first.user
    assert again.password is None


@pytest.mark.django_db
def test_a_person_who_took_the_name_admin_is_not_made_administrator() -> None:
    taken = User.objects.create_user("admin", password="x")
    made = ensure_admin()
    taken.refresh_from_db()
    assert not taken.is_superuser
    assert made.user != taken
