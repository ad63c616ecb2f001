from __future__ import annotations

import html
import json
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import Dataset, DatasetVersion
from tests.evsys_web.datasets.conftest import WriteRows, chat, jsonl

Headers = dict[str, str]
ROOT = "/api/v1/datasets"


@pytest.fixture
def dataset(alice: User, project: Project) -> Dataset:
    return Dataset.objects.create(project=project, name="sums", created_by=alice)


def send(client: Client, dataset: Dataset, body: bytes, headers: Headers, query: str = "", kind: str = "application/json") -> Any:
    return client.post(f"{ROOT}/{dataset.pk}/versions{query}", body, content_type=kind, headers=headers)


def test_a_dataset_is_made_once_and_found_again(client: Client, alice_headers: Headers, project: Project) -> None:
    body = {"name": "sums", "description": "worked"}
    made = client.post(ROOT, body, content_type="application/json", headers=alice_headers)
    again = client.post(ROOT, body, content_type="application/json", headers=alice_headers)
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json()["id"] == again.json()["id"]
    assert made.json()["num_versions"] == 0
    assert client.get(ROOT, headers=alice_headers).json()["items"] == [again.json()]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (json.dumps([chat("a?"), chat("b?")]).encode(), "application/json"),
        (jsonl(chat("a?"), chat("b?")), "application/jsonl"),
        (b'\xef\xbb\xbf[\n {"messages": ' + json.dumps(chat("a?")["messages"]).encode() + b"}]", "application/json"),
    ],
)
def test_rows_are_sent_as_the_body(client: Client, alice_headers: Headers, dataset: Dataset, body: bytes, kind: str) -> None:
    made = send(client, dataset, body, alice_headers, kind=kind)
    assert made.status_code == 201, made.content
    assert made.json()["created"] is True
    version = made.json()["version"]
    assert version["reference"] == "sums@1"
    rows = client.get(f"{ROOT}/versions/{version['id']}/rows?limit=1", headers=alice_headers).json()
    assert rows["rows"] == [chat("a?")]
    assert rows["next_start"] == (1 if rows["total"] > 1 else None)


def test_a_file_is_sent_as_multipart(client: Client, alice_headers: Headers, dataset: Dataset) -> None:
    file = SimpleUploadedFile("t.csv", b"prompt,completion\n2 + 2?,4\n")
    url = f"{ROOT}/{dataset.pk}/versions?conversion=prompt_completion"
    made = client.post(url, {"file": file}, headers=alice_headers)
    assert made.status_code == 201, made.content
    assert made.json()["version"]["source"] == "t.csv"
    assert made.json()["version"]["conversion"] == "Prompt and completion"
    content = client.get(f"{ROOT}/versions/{made.json()['version']['id']}/download", headers=alice_headers)
    assert b"".join(content) == jsonl(chat("2 + 2?")).replace(b": ", b":").replace(b", ", b",")


def test_the_same_rows_again_are_the_same_version(client: Client, alice_headers: Headers, dataset: Dataset) -> None:
    first = send(client, dataset, jsonl(chat("a?")), alice_headers)
    second = send(client, dataset, jsonl(chat("a?")), alice_headers)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["created"] is False
    assert first.json()["version"] == second.json()["version"]


def test_bad_rows_are_named_and_left_out_only_when_asked(client: Client, alice_headers: Headers, dataset: Dataset) -> None:
    body = jsonl(chat("a?"), {"messages": []}, {"messages": [{"role": "x"}]})
    refused = send(client, dataset, body, alice_headers)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == ["line 2: messages", "line 3: messages[0].role"]
    assert not DatasetVersion.objects.exists()
    made = send(client, dataset, body, alice_headers, "?leave_out_bad=true")
    version = made.json()["version"]
    assert (version["num_rows"], version["num_left_out"]) == (1, 2)


def test_foreign_rows_need_a_word(client: Client, alice_headers: Headers, dataset: Dataset) -> None:
    body = jsonl({"instruction": "Add 2 + 2.", "output": "4"})
    refused = send(client, dataset, body, alice_headers)
    assert refused.status_code == 422
    assert "Send conversion=alpaca." in refused.json()["detail"]
    assert refused.json()["errors"][0]["rule"] == "reading_needed"
    assert send(client, dataset, body, alice_headers, "?conversion=alpaca").status_code == 201


def test_columns_are_named_in_the_address(client: Client, alice_headers: Headers, dataset: Dataset) -> None:
    query = "?format=messages&column=prompt=q&column=reply=a&keep_rest=false&filename=t.csv"
    made = send(client, dataset, b"q,a,z\n2 + 2?,4,x\n", alice_headers, query, "text/csv")
    assert made.status_code == 201, made.content
    assert DatasetVersion.objects.get().rows_between(0, 1) == [chat("2 + 2?")]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?conversion=nope", "conversion"),
        ("?format=nope", "format"),
        ("?column=prompt=q", "format"),
        ("?format=messages&column=prompt", "column"),
        ("?format=messages&column=nope=q", "columns.nope"),
        ("?format=messages&column=prompt=q", "columns.reply"),
    ],
)
def test_a_reading_that_is_none_names_its_parameter(
    client: Client, alice_headers: Headers, dataset: Dataset, query: str, field: str
) -> None:
    refused = send(client, dataset, b"q,a\n1,2\n", alice_headers, query)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == field


BAD_BODIES = {
    "empty": b"",
    "binary": b"\x00\x01",
    "utf-16": b"\xff\xfe{\x00",
    "no rows": b"[]",
    "no object": b"[1]",
    "nesting": b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "nan": b'{"messages": NaN}',
    "twice": b'{"messages": [], "messages": []}',
    "broken": b'{"messages": [',
    "open array": b'[{"messages": []}',
    "not utf-8": b'{"messages": "\xff"}',
    "role": jsonl({"messages": [{"role": "bot", "content": "x"}]}),
    "no reply": jsonl({"messages": [{"role": "user", "content": "x"}]}),
    "blank": jsonl(chat(" ")),
    "preference": jsonl({"prompt": "a", "chosen": "b", "rejected": "b"}),
    "task": jsonl({"task_id": "a", "prompt": "b", "answer": "c"}) * 2,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_page_and_api_refuse_with_the_same_words(
    client: Client, alice_client: Client, alice_headers: Headers, dataset: Dataset, body: bytes
) -> None:
    refused = send(client, dataset, body, alice_headers)
    assert refused.status_code == 422, refused.content
    problem = refused.json()
    assert problem["errors"][0]["message"]
    page = alice_client.post("/datasets/upload", {"file": SimpleUploadedFile("rows", body), "name": "sums"}, follow=True)
    text = html.unescape(page.content.decode())
    sentence = problem["errors"][0]["message"]
    found, expected = sentence.split("found ", 1)[1].removesuffix(".").split("; expected ", 1) if body else ("empty", "")
    assert found in text
    assert expected in text
    assert not DatasetVersion.objects.exists()


def test_a_repeated_key_uploads_once(client: Client, alice_headers: Headers, dataset: Dataset) -> None:
    headers = {**alice_headers, "Idempotency-Key": "k"}
    first = send(client, dataset, jsonl(chat("a?")), headers)
    second = send(client, dataset, jsonl(chat("a?")), headers)
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert send(client, dataset, jsonl(chat("b?")), headers).status_code == 409


def test_a_body_of_more_than_ten_megabytes_streams_in(client: Client, alice_headers: Headers, dataset: Dataset) -> None:
    body = jsonl(*[chat(f"{number}?", "x" * 100_000) for number in range(110)])
    assert send(client, dataset, body, alice_headers).json()["version"]["num_rows"] == 110


def test_deleting_is_for_good(client: Client, alice_headers: Headers, version: DatasetVersion) -> None:
    assert client.delete(f"{ROOT}/versions/{version.pk}", headers=alice_headers).status_code == 204
    assert client.get(f"{ROOT}/versions/{version.pk}", headers=alice_headers).status_code == 404
    assert client.delete(f"{ROOT}/{version.dataset_id}", headers=alice_headers).status_code == 204
    assert not Dataset.objects.exists()


def test_a_stranger_and_a_reader_are_refused(
    client: Client, mallory_headers: Headers, read_only_headers: Headers, version: DatasetVersion
) -> None:
    for path in (
        f"{version.dataset_id}",
        f"{version.dataset_id}/versions",
        f"versions/{version.pk}",
        f"versions/{version.pk}/rows",
    ):
        assert client.get(f"{ROOT}/{path}", headers=mallory_headers).status_code == 404
        assert client.get(f"{ROOT}/{path}", headers=read_only_headers).status_code == 200
    assert client.get(ROOT, headers=mallory_headers).json()["items"] == []
    assert send(client, version.dataset, jsonl(chat("a?")), mallory_headers).status_code == 404
    assert send(client, version.dataset, jsonl(chat("a?")), read_only_headers).status_code == 403
    assert client.delete(f"{ROOT}/{version.dataset_id}", headers=mallory_headers).status_code == 404
    body = {"name": "x", "project": version.dataset.project_id}
    assert client.post(ROOT, body, content_type="application/json", headers=mallory_headers).status_code == 404


def test_the_list_goes_on_by_cursor(
    client: Client, alice: User, project: Project, alice_headers: Headers, write_rows: WriteRows
) -> None:
    for number in range(3):
        import_dataset(user=alice, project=project, name=f"d{number}", path=write_rows(chat("a?")))
    first = client.get(f"{ROOT}?limit=2", headers=alice_headers).json()
    second = client.get(f"{ROOT}?limit=2&cursor={first['next_cursor']}", headers=alice_headers).json()
    assert [item["name"] for item in first["items"] + second["items"]] == ["d2", "d1", "d0"]
    assert client.get(f"{ROOT}?name=d1", headers=alice_headers).json()["items"][0]["num_rows"] == 1
