from __future__ import annotations

import html
import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import Dataset, DatasetVersion, StagedUpload
from tests.evsys_web.datasets.conftest import WriteRows, chat, jsonl

UPLOAD = "/datasets/upload"


def send(client: Client, content: bytes, filename: str = "rows.jsonl", **fields: str) -> str:
    """Upload and follow; the page one lands on, as text."""
    data = {"file": SimpleUploadedFile(filename, content), **fields}
    return client.post(UPLOAD, data, follow=True).content.decode()


def test_an_upload_lands_on_the_rows_as_chats(alice_client: Client) -> None:
    page = send(alice_client, jsonl(chat("What is 2 + 2?")), "my sums.jsonl")
    assert "1 row imported as my sums@1" in page
    assert "What is 2 + 2?" in page
    assert "chat-assistant" in page


def test_pasted_rows_are_an_upload_too(alice_client: Client) -> None:
    page = alice_client.post(UPLOAD, {"text": jsonl(chat("pasted?")).decode(), "name": "pasted"}, follow=True)
    assert "pasted@1" in page.content.decode()


def test_the_same_file_again_says_so(alice_client: Client) -> None:
    send(alice_client, jsonl(chat("a?")), name="sums")
    assert "already has exactly these rows" in send(alice_client, jsonl(chat("a?")), "other.jsonl", name="sums")
    assert DatasetVersion.objects.count() == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "Choose a file or paste rows: one of the two."),
        ({"file": SimpleUploadedFile("a.jsonl", b"")}, "This file is empty."),
        ({"file": SimpleUploadedFile("a.jsonl", b"\n \n")}, "found an empty file"),
        ({"file": SimpleUploadedFile("a.jsonl", b"\x00\x01\x02")}, "found a binary file"),
        ({"file": SimpleUploadedFile("a.jsonl", b"\xff\xfe{\x00")}, "text in UTF-16"),
        ({"file": SimpleUploadedFile("a.xlsx", b"PK\x03\x04aaaa")}, "saved as CSV"),
        ({"text": "hello"}, "found text that begins"),
        ({"text": "{}", "name": "../../etc"}, "Begin with a letter or digit"),
        ({"text": "{}", "project": "999999"}, "Select a valid choice"),
    ],
)
def test_what_is_no_upload_is_said_in_a_sentence(alice_client: Client, fields: dict[str, object], sentence: str) -> None:
    response = alice_client.post(UPLOAD, fields)
    assert response.status_code == 422
    assert sentence in html.unescape(response.content.decode())
    assert not Dataset.objects.exists()
    assert not StagedUpload.objects.exists()


def test_bad_rows_are_listed_and_nothing_is_stored_until_one_agrees(alice_client: Client) -> None:
    rows = jsonl(chat("good?"), {"messages": [{"role": "<b>bot</b>", "content": "x"}]}, {"messages": []})
    page = send(alice_client, rows, name="sums")
    assert "2 rows cannot be used" in page
    assert "messages[0].role" in page
    assert "&lt;b&gt;bot&lt;/b&gt;" in page
    assert not Dataset.objects.exists()
    staged = StagedUpload.objects.get()
    listed = b"".join(alice_client.get(reverse("datasets:staged-errors", args=[staged.pk])))
    assert listed.decode().count("\n") == 3
    agreed = alice_client.post(reverse("datasets:staged", args=[staged.pk]), {"action": "leave_out"}, follow=True)
    assert "1 row imported as sums@1. 2 bad rows left out." in agreed.content.decode()
    assert not StagedUpload.objects.exists()


def test_a_discarded_upload_leaves_nothing(alice_client: Client) -> None:
    send(alice_client, jsonl({"messages": []}))
    staged = StagedUpload.objects.get()
    alice_client.post(reverse("datasets:staged", args=[staged.pk]), {"action": "discard"})
    assert not StagedUpload.objects.exists()
    assert not staged.file.storage.exists(str(staged.file.name))


def test_foreign_rows_are_shown_converted_before_they_are_imported(alice_client: Client) -> None:
    page = send(alice_client, jsonl({"instruction": "Add.", "input": "2 + 2", "output": "4"}), name="alpaca")
    assert "Read as Alpaca" in page
    assert "Joins instruction and input" in page
    assert "Add.\n\n2 + 2" in page
    assert not Dataset.objects.exists()
    staged = StagedUpload.objects.get()
    done = alice_client.post(reverse("datasets:staged", args=[staged.pk]), {"reading": "conversion:alpaca"}, follow=True)
    assert "Converted: Alpaca" in done.content.decode()


def test_columns_are_chosen_previewed_and_imported(alice_client: Client) -> None:
    page = send(alice_client, b"question,solution\n2 + 2?,4\n", "sums.csv")
    assert "Which column is what?" in page
    url = reverse("datasets:staged", args=[StagedUpload.objects.get().pk])
    choice = {"reading": "columns:messages", "messages-prompt": "question", "messages-reply": "solution"}
    previewed = alice_client.post(url, {**choice, "action": "preview"}).content.decode()
    assert "Read as chosen columns" in previewed
    assert not Dataset.objects.exists()
    refused = alice_client.post(url, {**choice, "messages-reply": ""})
    assert refused.status_code == 422
    assert "2 + 2?" in alice_client.post(url, choice, follow=True).content.decode()
    assert DatasetVersion.objects.get().rows_between(0, 1) == [chat("2 + 2?", "4")]


@pytest.mark.parametrize("choice", ["nonsense", "conversion:nope", "native:unknown", "columns:nope", ""])
def test_a_reading_that_is_none_is_refused(alice_client: Client, choice: str) -> None:
    send(alice_client, b"question,solution\n2 + 2?,4\n", "sums.csv")
    url = reverse("datasets:staged", args=[StagedUpload.objects.get().pk])
    response = alice_client.post(url, {"reading": choice})
    assert response.status_code == 422
    assert "Choose how the rows are to be read." in response.content.decode()


def test_hostile_text_in_rows_is_shown_and_never_run(alice_client: Client, version: DatasetVersion) -> None:
    for url in (version.get_absolute_url(), f"{version.get_absolute_url()}?q=<script>"):
        page = alice_client.get(url).content.decode()
        assert "<script>alert(6)" not in page
        assert "&lt;script&gt;alert(6)&lt;/script&gt;" in page
    preview = alice_client.get(reverse("datasets:preview", args=[version.pk]), headers={"HX-Request": "true"}).content.decode()
    assert "<script>" not in preview


def test_every_shape_of_row_has_a_page(alice_client: Client, alice: User, project: Project, write_rows: WriteRows) -> None:
    call = {"name": "add", "arguments": {"a": "<i>"}}
    tools = [
        {"role": "user", "content": [{"type": "text", "text": "block text"}]},
        {"role": "assistant", "content": "", "reasoning": "because", "tool_calls": [call]},
        {"role": "tool", "content": "", "name": "add"},
        {"role": "assistant", "content": "long " * 1000},
    ]
    kinds = {
        "tools": {"messages": tools},
        "preference": {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        "task": {"task_id": "t-1", "prompt": "2 + 2?", "answer": {"value": 4}},
    }
    expected = {"tools": ["because", "&lt;i&gt;", "show all 5,000", "block text"], "preference": ["Rejected"], "task": ["t-1"]}
    for name, row in kinds.items():
        version = import_dataset(user=alice, project=project, name=name, path=write_rows(row)).version
        page = alice_client.get(version.get_absolute_url()).content.decode()
        assert [words for words in expected[name] if words not in page] == []


def test_search_looks_through_rows_and_says_how_far(alice_client: Client, version: DatasetVersion) -> None:
    page = alice_client.get(f"{version.get_absolute_url()}?q=3+%2B+3").content.decode()
    assert "Row 3" in page
    assert "Row 1" not in page
    assert "All 3 rows are searched" in page


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=9999999999999", "page=x", "row=3", "row=99999999999999999", "q=a&from=-5"]
)
def test_pages_that_are_not_there_are_no_error(alice_client: Client, version: DatasetVersion, query: str) -> None:
    assert alice_client.get(f"{version.get_absolute_url()}?{query}").status_code == 200


def test_a_download_is_an_attachment_with_the_stored_rows(alice_client: Client, version: DatasetVersion) -> None:
    response = alice_client.get(reverse("datasets:download", args=[version.pk]))
    assert response["Content-Disposition"] == 'attachment; filename="sums-1.jsonl"'
    assert b"".join(response) == version.file.open("rb").read()


def test_a_script_that_shows_progress_is_told_where_to_go(alice_client: Client) -> None:
    data = {"file": SimpleUploadedFile("a.jsonl", jsonl(chat("a?")))}
    response = alice_client.post(UPLOAD, data, headers={"X-Progress": "1"})
    assert response["HX-Redirect"] == DatasetVersion.objects.get().get_absolute_url()


def test_deleting_asks_first(alice_client: Client, version: DatasetVersion) -> None:
    url = reverse("datasets:delete", args=[version.dataset_id])
    assert "Nothing was made from it" in alice_client.get(url).content.decode()
    assert DatasetVersion.objects.exists()
    alice_client.post(url)
    assert not Dataset.objects.exists()


def test_a_dataset_whose_versions_are_gone_still_has_a_page(alice_client: Client, version: DatasetVersion) -> None:
    alice_client.post(reverse("datasets:delete-version", args=[version.pk]))
    assert "No versions" in alice_client.get(reverse("datasets:dataset", args=[version.dataset_id])).content.decode()
    assert "sums" in alice_client.get(reverse("datasets:list")).content.decode()


def test_the_list_costs_the_same_queries_for_one_dataset_and_for_ten(
    alice_client: Client, alice: User, project: Project, write_rows: WriteRows, django_assert_max_num_queries: object
) -> None:
    for number in range(10):
        import_dataset(user=alice, project=project, name=f"d{number}", path=write_rows(chat("a?")))
    with django_assert_max_num_queries(6):  # type: ignore[operator]
        page = alice_client.get(reverse("datasets:list")).content.decode()
    assert page.count("cell-wide") == 10


def test_the_starter_rows_are_one_click(alice_client: Client) -> None:
    page = alice_client.post(reverse("datasets:starter"), follow=True).content.decode()
    assert "starter-sums" in page


def test_token_counts_say_what_is_trained(alice_client: Client, version: DatasetVersion) -> None:
    page = alice_client.get(reverse("datasets:tokens", args=[version.pk]) + "?shown=1,3,x,99").content.decode()
    assert 'id="tokens-of-1"' in page
    assert 'id="tokens-of-3"' in page
    assert "histogram" in page
    refused = alice_client.get(reverse("datasets:tokens", args=[version.pk]) + "?model=/nowhere").content.decode()
    assert "There is no folder" in refused


def test_the_preview_marks_the_reply_and_not_the_question(alice_client: Client, version: DatasetVersion) -> None:
    url = reverse("datasets:preview", args=[version.pk])
    page = alice_client.get(url, headers={"HX-Request": "true"}).content.decode()
    assert "token-trained" in page
    assert "All checks passed on 3 rows" in page
    cut = alice_client.get(url + "?max_seq_len=4", headers={"HX-Request": "true"}).content.decode()
    assert "lose their end" in cut
    wrong = alice_client.get(url + "?max_seq_len=no", headers={"HX-Request": "true"}).content.decode()
    assert "Cut after: Enter a whole number." in wrong


def test_a_stranger_finds_nothing(mallory_client: Client, alice_client: Client, version: DatasetVersion) -> None:
    send(alice_client, jsonl({"messages": []}), name="other")
    staged = StagedUpload.objects.get()
    for name, pk in [
        ("detail", version.pk),
        ("tokens", version.pk),
        ("preview", version.pk),
        ("download", version.pk),
        ("delete-version", version.pk),
        ("delete", version.dataset_id),
        ("dataset", version.dataset_id),
        ("staged", staged.pk),
        ("staged-errors", staged.pk),
    ]:
        assert mallory_client.get(reverse(f"datasets:{name}", args=[pk])).status_code == 404, name
    for name, pk in [("delete", version.dataset_id), ("delete-version", version.pk), ("staged", staged.pk)]:
        assert mallory_client.post(reverse(f"datasets:{name}", args=[pk]), {"action": "discard"}).status_code == 404
    assert "sums" not in mallory_client.get(reverse("datasets:list")).content.decode().replace("Sums", "")
    fields = {"text": json.dumps(chat("a?")), "project": str(version.dataset.project_id)}
    assert mallory_client.post(UPLOAD, fields).status_code == 422
    assert Dataset.objects.count() == 1


def test_a_member_may_upload_and_see(bob_client: Client, version: DatasetVersion) -> None:
    assert bob_client.get(version.get_absolute_url()).status_code == 200
    assert "sums@2" in send(bob_client, jsonl(chat("new?")), name="sums")


def test_a_stored_file_that_is_gone_from_the_disk_is_said_in_a_sentence(alice_client: Client, version: DatasetVersion) -> None:
    version.file.storage.delete(str(version.file.name))
    for name in ("detail", "download", "preview", "tokens"):
        answer = alice_client.get(reverse(f"datasets:{name}", args=[version.pk]), headers={"HX-Request": "true"}, follow=True)
        assert answer.status_code == 200
        assert "is gone: somebody removed it from the disk" in html.unescape(answer.content.decode()), name


def test_uploading_the_same_rows_puts_a_lost_file_back(alice_client: Client, version: DatasetVersion) -> None:
    content = version.file.open("rb").read()
    version.file.close()
    for stored in (version.file, version.offsets):
        stored.storage.delete(str(stored.name))
    assert "already has exactly these rows" in send(alice_client, content, name=version.dataset.name)
    again = DatasetVersion.objects.get()
    assert again.file.open("rb").read() == content
    assert len(again.rows_between(0, again.num_rows)) == again.num_rows


def test_more_pasted_text_than_a_form_takes_is_refused_in_a_sentence(alice_client: Client) -> None:
    client = Client(raise_request_exception=False)
    client.cookies = alice_client.cookies
    refused = client.post(UPLOAD, {"text": "x" * (11 * 1024 * 1024)})
    assert refused.status_code == 413
    assert "upload that: a file may have any size" in refused.content.decode()
