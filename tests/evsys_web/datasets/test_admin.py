from __future__ import annotations

from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from evsys_web.accounts.models import AuditEntry, Project, User
from evsys_web.datasets.models import Dataset, DatasetVersion, StagedUpload
from tests.evsys_web.datasets.conftest import chat, jsonl

ADD = "/admin/datasets/dataset/add/"


@pytest.fixture
def admin_client(admin: User, project: Project) -> Client:
    client = Client()
    client.force_login(admin)
    return client


def upload(client: Client, content: bytes, **fields: str) -> str:
    data = {"file": SimpleUploadedFile("rows.jsonl", content), "name": "sums", **fields}
    return client.post(ADD, data, follow=True).content.decode()


def test_an_upload_in_the_admin_takes_the_same_way(admin_client: Client, project: Project) -> None:
    page = upload(admin_client, jsonl(chat("a?")), project=str(project.pk))
    assert "1 row imported as sums@1" in page
    assert DatasetVersion.objects.get().dataset.project == project


def test_validating_stores_nothing(admin_client: Client) -> None:
    assert "Every row is good: 1 of the format messages" in upload(admin_client, jsonl(chat("a?")), _validate="1")
    assert not Dataset.objects.exists()


def test_bad_rows_are_listed_and_left_out_when_asked(admin_client: Client) -> None:
    rows = jsonl(chat("a?"), {"messages": [{"role": "<i>", "content": "x"}]})
    page = upload(admin_client, rows)
    assert "1 row cannot be used, 1 is good" in page
    assert "messages[0].role" in page
    assert "<i>" not in page
    assert not Dataset.objects.exists()
    assert "1 bad rows left out" in upload(admin_client, rows, leave_out_bad="on")


def test_foreign_rows_go_on_to_the_page_that_asks(admin_client: Client) -> None:
    assert "Read as Alpaca" in upload(admin_client, jsonl({"instruction": "Add.", "output": "4"}))
    assert StagedUpload.objects.count() == 1


def test_the_panel_shows_counts_who_when_and_a_preview(admin_client: Client, version: DatasetVersion) -> None:
    listed = admin_client.get(reverse("admin:datasets_dataset_changelist")).content.decode()
    assert "sums" in listed and "alice" in listed and version.get_absolute_url() in listed
    versions = admin_client.get(reverse("admin:datasets_datasetversion_changelist")).content.decode()
    assert "sums@1" in versions
    changed = admin_client.get(reverse("admin:datasets_dataset_change", args=[version.dataset_id]))
    assert "sums.jsonl" in changed.content.decode()
    page = admin_client.get(reverse("admin:datasets_datasetversion_change", args=[version.pk])).content.decode()
    assert "2 + 2?" in page
    assert "&lt;script&gt;alert(6)" in page
    assert "<script>alert(6)" not in page


def test_another_name_is_in_the_audit_log_and_no_dataset_moves_to_another_project(
    admin_client: Client, version: DatasetVersion, admin: User
) -> None:
    dataset, elsewhere = version.dataset, Project.objects.create_for(admin, name="Elsewhere")
    form = {"name": "renamed", "description": "", "project": elsewhere.pk, "versions-TOTAL_FORMS": 0, "versions-INITIAL_FORMS": 0}
    assert admin_client.post(reverse("admin:datasets_dataset_change", args=[dataset.pk]), form).status_code == 302
    entry = AuditEntry.objects.get(verb="changed")
    assert entry.changes == {"name": [dataset.name, "renamed"]} and entry.user == admin
    dataset.refresh_from_db()
    assert dataset.project != elsewhere


def test_a_version_cannot_be_changed_or_made_by_hand(admin_client: Client, version: DatasetVersion) -> None:
    assert admin_client.get(reverse("admin:datasets_datasetversion_add")).status_code == 403
    url = reverse("admin:datasets_datasetversion_change", args=[version.pk])
    assert admin_client.post(url, {"num_rows": "9"}).status_code == 403
    version.refresh_from_db()
    assert version.num_rows == 3


def test_stored_rows_are_validated_again(admin_client: Client, version: DatasetVersion) -> None:
    url = reverse("admin:datasets_datasetversion_changelist")
    choice = {"action": "validate", "_selected_action": [version.pk]}
    assert "all 3 rows are good and unchanged" in admin_client.post(url, choice, follow=True).content.decode()
    Path(version.file.path).write_bytes(jsonl(chat("forged")))
    assert "changed after it was imported" in admin_client.post(url, choice, follow=True).content.decode()
    Path(version.file.path).unlink()
    assert "cannot be read" in admin_client.post(url, choice, follow=True).content.decode()


@pytest.mark.django_db(transaction=True)
def test_deleting_in_the_admin_deletes_files(admin_client: Client, version: DatasetVersion) -> None:
    path = Path(version.file.path)
    admin_client.post(reverse("admin:datasets_dataset_delete", args=[version.dataset_id]), {"post": "yes"})
    assert not Dataset.objects.exists()
    assert not path.exists()


def test_the_upload_page_has_no_inline_script_or_style(admin_client: Client) -> None:
    page = admin_client.get(ADD).content.decode()
    assert "style=" not in page
    assert "<style" not in page
    assert "onclick" not in page
