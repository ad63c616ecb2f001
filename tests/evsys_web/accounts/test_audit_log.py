"""The audit log: what an entry says, who reads it, and that nobody changes it."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import Client

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.audit import changes, record
from evsys_web.accounts.models import ApiToken, AuditEntry, Project, User
from evsys_web.runs.actions import stop_run
from evsys_web.runs.models import Status, TrainingRun
from tests.conftest import signed_in

PAGE = "/accounts/audit/"


@pytest.fixture
def stopped(bob: User, project: Project) -> TrainingRun:
    run = TrainingRun.objects.create(project=project, created_by=bob, name="<b>sums</b>", status=Status.QUEUED)
    return stop_run(user=bob, run=run)


def body(response: Any) -> str:
    text: str = response.content.decode()
    return text


def test_it_says_who_did_what_to_what_before_and_after_and_from_where(stopped: TrainingRun, project: Project) -> None:
    entry = AuditEntry.objects.get()
    assert (entry.username, entry.verb, entry.kind, entry.thing) == ("bob", "stopped", "training run", "<b>sums</b>")
    assert entry.changes == {"status": ["queued", "cancelled"]} and entry.project == project
    assert entry.door.startswith("command") and entry.address is None


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", None),
        ("", None),
        ("<b>192.0.2.7", None),
    ],
)
def test_only_an_address_goes_into_its_column_whatever_a_visitor_said(alice_client: Client, said: str, noted: str | None) -> None:
    form = {"first_name": "Alice", "last_name": "", "email": "alice@example.org"}
    assert alice_client.post("/accounts/", form, REMOTE_ADDR=said).status_code == 302
    assert AuditEntry.objects.get().address == noted


def test_admins_of_the_project_read_it_and_editors_viewers_and_strangers_do_not(
    stopped: TrainingRun, alice: User, bob: User, carol: User, mallory: User, admin: User
) -> None:
    seen = {user.username: "stopped" in body(signed_in(user).get(PAGE)) for user in (alice, bob, carol, mallory, admin)}
    assert seen == {"alice": True, "bob": False, "carol": False, "mallory": False, "admin": True}


def test_everybody_reads_what_they_did_to_their_own_account(bob_client: Client, alice_client: Client) -> None:
    bob_client.post("/accounts/", {"first_name": "Robert", "last_name": "", "email": "bob@example.org"})
    assert "Robert" in body(bob_client.get(PAGE)) and "Robert" not in body(alice_client.get(PAGE))


def test_it_is_filtered_and_a_mistake_in_a_filter_is_said(stopped: TrainingRun, alice_client: Client) -> None:
    for query, is_there in (
        ("user=bob", True),
        ("user=zoe", False),
        ("thing=training stopped", True),
        ("since=2999-01-01", False),
    ):
        assert ("training run" in body(alice_client.get(f"{PAGE}?{query}"))) is is_there, query
    assert "Enter a valid date" in body(alice_client.get(f"{PAGE}?since=yesterday"))


def test_names_are_shown_as_text(stopped: TrainingRun, alice_client: Client) -> None:
    page = body(alice_client.get(PAGE))
    assert "&lt;b&gt;sums" in page and "<b>sums" not in page


def test_it_goes_out_as_csv_and_jsonl_without_formulas(alice: User, project: Project, client: Client) -> None:
    record(alice, "saved", Project(pk=project.pk, name="=1+1"))
    headers = {"Authorization": f"Bearer {_token(alice)}"}
    text = _drained(client.get("/api/v1/audit/export?format=csv&thing=saved", headers=headers))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["thing"] for row in rows] == ["'=1+1"]
    lines = _drained(client.get("/api/v1/audit/export?thing=saved", headers=headers)).splitlines()
    assert [json.loads(line)["thing"] for line in lines] == ["=1+1"]


def test_the_api_pages_through_it_and_hides_other_peoples(
    stopped: TrainingRun, client: Client, alice_headers: dict[str, str], mallory_headers: dict[str, str]
) -> None:
    first = client.get("/api/v1/audit?limit=1", headers=alice_headers).json()
    assert [item["verb"] for item in first["items"]] == ["stopped"]
    assert client.get("/api/v1/audit", headers=mallory_headers).json()["items"] == []


def test_entries_are_neither_changed_nor_deleted(stopped: TrainingRun, admin: User) -> None:
    entry = AuditEntry.objects.get()
    for change in (entry.save, entry.delete, AuditEntry.objects.all().delete, lambda: AuditEntry.objects.update(verb="")):
        with pytest.raises(TypeError, match="not (changed|deleted)"):
            change()
    staff = signed_in(admin)
    change_page = f"/admin/accounts/auditentry/{entry.pk}/"
    assert staff.get(f"{change_page}change/").status_code == 200
    assert staff.post(f"{change_page}change/", {"verb": "x"}).status_code == 403
    assert staff.post(f"{change_page}delete/", {"post": "yes"}).status_code == 403
    assert staff.get("/admin/accounts/auditentry/add/").status_code == 403


def test_an_entry_outlives_the_person_and_the_project(stopped: TrainingRun, bob: User, project: Project) -> None:
    project.delete()
    bob.delete()
    assert [(entry.username, entry.user, entry.project) for entry in AuditEntry.objects.all()] == [("bob", None, None)]


def test_secrets_are_named_and_not_shown(alice: User, project: Project) -> None:
    store_credential(user=alice, project=project, name="key", secret="sk-a-very-secret-key-0042")
    entry = AuditEntry.objects.get()
    assert entry.changes["secret"] == [None, "•••"] and "sk-a-very" not in str(entry.changes)


def test_a_password_is_noted_without_its_hash(alice_client: Client, admin: User, alice: User) -> None:
    new = "a-much-better-one-9"
    alice_client.post("/accounts/password/", {"old_password": "alice's password", "new_password1": new, "new_password2": new})
    assert [entry.verb for entry in AuditEntry.objects.all()] == ["changed the password of"]
    signed_in(admin).post(f"/admin/accounts/user/{alice.pk}/password/", {"password1": new + "x", "password2": new + "x"})
    assert AuditEntry.objects.filter(username="admin", verb="set the password of", door="admin").exists()


def test_the_stock_admin_leaves_entries_too(admin: User, project: Project, bob: User) -> None:
    staff = signed_in(admin)
    form = {"name": "Renamed", "memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0}
    staff.post(f"/admin/accounts/project/{project.pk}/change/", form)
    assert AuditEntry.objects.get(kind="project").changes == {"name": ["Sums", "Renamed"]}
    staff.post(f"/admin/accounts/user/{bob.pk}/delete/", {"post": "yes"})
    assert AuditEntry.objects.filter(verb="deleted", thing="bob").exists()


def test_what_looks_like_an_escaped_nul_is_kept_and_a_nul_is_not(alice: User, alice_client: Client) -> None:
    assert changes({}, {"name": "a\\u0000b", "note": ["c\0d", "e\\\0f"]}) == {
        "name": [None, "a\\u0000b"],
        "note": [None, ["cd", "e\\f"]],
    }
    form = {"first_name": "\\u0000", "last_name": "", "email": "alice@example.org"}
    assert alice_client.post("/accounts/", form).status_code == 302
    assert AuditEntry.objects.get().changes["first_name"] == ["", "\\u0000"]


def test_long_values_are_cut_and_what_is_the_same_is_left_out() -> None:
    found = changes({"a": 1, "config": "x" * 9000}, {"a": 1, "config": None})
    assert list(found) == ["config"] and found["config"][0].endswith("… (9,002 characters)") and found["config"][1] is None


def _token(user: User) -> str:
    return ApiToken.objects.issue(user, name="t")[1]


def _drained(response: Any) -> str:
    async def whole() -> str:
        return b"".join([chunk async for chunk in response.streaming_content]).decode()

    return async_to_sync(whole)()
