"""Rows as files: JSONL and Parquet, whole or one split, and back into the very same content."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from django.test import Client
from django.urls import reverse

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset, publish_splits
from evsys_web.datasets.downloads import ExportFormat, exported, version_download
from evsys_web.datasets.models import DatasetVersion
from recipes.rows import RowFormat
from tests.evsys_web.datasets.conftest import chat

BLOCKS = [{"text": "first", "type": "text"}, {"type": "text", "text": "second"}]
CALL = {"id": "c1", "function": {"name": "add", "arguments": {"b": 1.0, "a": [None, 2, "x"], "é": {}}}}
MESSAGES = [
    chat("text", "4"),
    {"messages": [{"role": "user", "content": BLOCKS}, {"role": "assistant", "content": "blocks beside text"}]},
    {
        "messages": [
            {"role": "user", "content": "tools", "name": ""},
            {"role": "assistant", "content": "", "reasoning": "why", "tool_calls": [CALL, {"name": "noop", "arguments": "{}"}]},
            {"role": "tool", "content": "", "tool_call_id": "c1"},
            {"role": "assistant", "content": "done"},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"z": 1, "a": {}}}}],
        "metadata": {"number": 10**30, "float": 1e-7, "none": None, "deep": [[{"k": "v"}]], "answer_json": "kept"},
    },
    chat('line\u2028separator \x00 and "quotes"', "🙂 é"),
]
PREFERENCE = [
    {"prompt": "a?", "chosen": "yes", "rejected": "no"},
    {"prompt": [{"role": "user", "content": BLOCKS}], "chosen": "yes", "rejected": "no", "source": "me"},
]
TASKS = [
    {"task_id": "1", "prompt": "a?", "answer": "4"},
    {"task_id": "2", "prompt": "a?", "answer": 4, "verifier": "math"},
    {"task_id": "3", "prompt": "a?", "answer": ["4", {"b": 1, "a": 2}], "verifier": {"kind": "numeric", "params": {}}},
    {"task_id": "4", "prompt": "a?", "answer": '"4"'},
    {"task_id": "5", "prompt": "a?", "answer": False},
    {"task_id": "6", "prompt": "a?", "verifier": ["x"]},
]
KINDS = [(RowFormat.MESSAGES, MESSAGES), (RowFormat.PREFERENCE, PREFERENCE), (RowFormat.TASK, TASKS)]


def published(user: User, project: Project, format: RowFormat, **splits: Any) -> DatasetVersion:
    return publish_splits(user=user, project=project, name="made", splits=splits, row_format=format).version


def saved(version: DatasetVersion, path: Path, format: str, split: str | None = None) -> Path:
    path.write_bytes(b"".join(exported(version, ExportFormat(format), split)))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(("format", "rows"), KINDS)
def test_a_whole_version_comes_back_as_the_same_content_splits_included(
    alice: User, project: Project, tmp_path: Path, format: RowFormat, rows: list[Any], kind: str
) -> None:
    version = published(alice, project, format, train=rows[:-1], validation=rows[-1:])
    path = saved(version, tmp_path / f"rows.{kind}", kind)
    again = import_dataset(user=alice, project=project, name="again", path=path, filename=path.name).version
    assert (again.content_hash, again.splits, again.format) == (version.content_hash, version.splits, format)
    assert list(again.read_rows()) == list(version.read_rows())
    if kind == "jsonl":
        assert version_download(version)["Content-Length"] == str(path.stat().st_size)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_one_split_or_rows_without_splits_come_back_too(alice: User, project: Project, tmp_path: Path, kind: str) -> None:
    version = published(alice, project, RowFormat.MESSAGES, train=MESSAGES[:2], validation=MESSAGES[2:])
    path = saved(version, tmp_path / f"part.{kind}", kind, "validation")
    part = import_dataset(user=alice, project=project, name="part", path=path, filename=path.name).version
    assert list(part.read_rows()) == list(version.read_rows("validation")) and part.splits == []
    again = import_dataset(user=alice, project=project, name="again", path=saved(part, path, kind), filename=path.name).version
    assert again.content_hash == part.content_hash


def test_a_field_split_names_splits_only_where_each_is_one_stretch_of_the_file(
    alice: User, project: Project, tmp_path: Path
) -> None:
    def splits_of(*names: Any, bad: int | None = None) -> list[tuple[str, int]]:
        rows = [chat(str(number)) | ({} if name is None else {"split": name}) for number, name in enumerate(names)]
        if bad is not None:
            rows[bad]["messages"] = []
        (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        version = import_dataset(
            user=alice, project=project, name="again", path=tmp_path / "rows.jsonl", leave_out_bad=bad is not None
        ).version
        kept = [row.get("metadata") for row in version.read_rows()]
        given = [{"split": name} if name is not None else None for at, name in enumerate(names) if at != bad]
        assert kept == ([None] * len(given) if version.splits else given), "what names no split stays with its row"
        return [(each["name"], each["num_rows"]) for each in version.splits]

    assert splits_of("train", "train", "test.a") == [("train", 2), ("test.a", 1)]
    assert splits_of("train", "train", "test", bad=1) == [("train", 1), ("test", 1)]
    assert splits_of("train", "gone", "test", bad=1) == [("train", 1), ("test", 1)]
    for names in (("train", "test", "train"), ("train", None), (None, "train"), ("../x", "train"), ("train", 3)):
        assert splits_of(*names) == [], names


def test_trainers_read_turns_as_columns(alice: User, project: Project, tmp_path: Path) -> None:
    version = published(alice, project, RowFormat.MESSAGES, train=MESSAGES)
    table = pyarrow.parquet.read_table(saved(version, tmp_path / "rows.parquet", "parquet"))
    turns = table["messages"].to_pylist()
    assert turns[0][0]["role"] == "user" and turns[0][0]["content"] == "text"
    assert turns[1][0]["content"] == "first\nsecond", "blocks are there as text as well"
    assert json.loads(table["metadata"][2].as_py())["number"] == 10**30


def test_a_file_that_lies_about_its_splits_has_none(alice: User, project: Project, tmp_path: Path) -> None:
    version = published(alice, project, RowFormat.MESSAGES, train=MESSAGES[:3], validation=MESSAGES[3:])
    path = saved(version, tmp_path / "rows.parquet", "parquet")
    table = pyarrow.parquet.read_table(path)
    lies = [
        b'[["train", 9]]',
        b'[["../x", 4]]',
        b"nonsense",
        b'{"a": 1}',
        b'[["a", 2], ["a", 2]]',
        b'[["a", 1.0], ["b", 3]]',
        b"[" * 9999,
    ]
    for lie in lies:
        pyarrow.parquet.write_table(table.replace_schema_metadata({**table.schema.metadata, b"evsys_splits": lie}), path)
        again = import_dataset(user=alice, project=project, name="again", path=path, filename="rows.parquet").version
        assert again.splits == [], lie


def test_broken_json_in_a_file_of_ours_is_named_by_its_row(alice: User, project: Project, tmp_path: Path) -> None:
    version = published(alice, project, RowFormat.MESSAGES, train=[chat("a", metadata={"k": 1})])
    path = saved(version, tmp_path / "rows.parquet", "parquet")
    table = pyarrow.parquet.read_table(path)
    position = table.schema.get_field_index("metadata")
    pyarrow.parquet.write_table(table.set_column(position, table.schema.field("metadata"), [["{broken"]]), path)
    with pytest.raises(ValueError, match="Row 1: found broken JSON"):
        import_dataset(user=alice, project=project, name="again", path=path, filename="rows.parquet")


def test_an_export_is_streamed(alice: User, project: Project) -> None:
    text = "x" * 20_000
    version = published(alice, project, RowFormat.MESSAGES, train=(chat(str(number), text) for number in range(2500)))
    next(iter(exported(version, ExportFormat.PARQUET)))  # imports what it needs, which is not counted
    tracemalloc.start()
    try:
        size = sum(len(chunk) for chunk in exported(version, ExportFormat.PARQUET))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert version.num_bytes > 50_000_000 and size > 0 and peak < 25_000_000


def test_the_page_and_the_api_send_files_under_safe_names(
    alice_client: Client,
    mallory_client: Client,
    alice_headers: dict[str, str],
    mallory_headers: dict[str, str],
    alice: User,
    project: Project,
) -> None:
    version = published(alice, project, RowFormat.MESSAGES, train=MESSAGES[:3], validation=MESSAGES[3:])
    url = reverse("datasets:download", args=[version.pk])
    api = f"/api/v1/datasets/versions/{version.pk}/download"
    page = alice_client.get(version.get_absolute_url()).content.decode()
    for query, name in (
        ("", "made-1.jsonl"),
        ("?format=parquet", "made-1.parquet"),
        ("?split=validation", "made-1-validation.jsonl"),
        ("?format=parquet&split=train", "made-1-train.parquet"),
    ):
        assert f'href="{url}{query.replace("&", "&amp;")}"' in page
        for address, headers in ((url, {}), (api, alice_headers)):
            response = alice_client.get(address + query, headers=headers)
            assert response["Content-Disposition"] == f'attachment; filename="{name}"'
            assert b"".join(response)
        assert mallory_client.get(url + query).status_code == 404
        assert (
            mallory_client.get(f"/api/v1/datasets/versions/{version.pk}/download{query}", headers=mallory_headers).status_code
            == 404
        )
    assert alice_client.get(f"{url}?format=exe").status_code == 404
    assert "no split" in alice_client.get(f"{url}?split=nope", follow=True).content.decode()
    assert alice_client.get(f"{api}?split=nope", headers=alice_headers).status_code == 422
    assert alice_client.get(f"{api}?format=exe", headers=alice_headers).status_code == 422
