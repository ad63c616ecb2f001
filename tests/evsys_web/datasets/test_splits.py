"""Splits of a version: how they are published, read, hashed, and refused."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import Imported, import_dataset, publish_splits, validate_version
from evsys_web.datasets.models import Dataset, DatasetVersion
from recipes.errors import ConfigError, DataError
from recipes.rows import RowFormat
from tests.evsys_web.datasets.conftest import WriteRows, chat

Publish = Any


@pytest.fixture
def publish(alice: User, project: Project) -> Publish:
    def run(format: RowFormat = RowFormat.MESSAGES, user: User = alice, **splits: Any) -> Imported:
        return publish_splits(user=user, project=project, name="curated", splits=splits, row_format=format, source="two evals")

    return run


@pytest.fixture
def split_version(publish: Publish) -> DatasetVersion:
    """curated@1: train with three chats, validation with one."""
    return publish(train=[chat("a"), chat("b"), chat("c", metadata={"task_id": "t"})], validation=[chat("d")]).version


def asked(row: dict[str, Any]) -> str:
    return str(row["messages"][0]["content"])


def test_rows_lie_split_after_split_and_are_read_by_split(split_version: DatasetVersion) -> None:
    assert split_version.splits == [{"name": "train", "num_rows": 3}, {"name": "validation", "num_rows": 1}]
    assert split_version.num_rows == 4 and split_version.source == "two evals"
    assert [asked(row) for row in split_version.read_rows()] == ["a", "b", "c", "d"]
    assert [asked(row) for row in split_version.read_rows("train")] == ["a", "b", "c"]
    assert [asked(row) for row in split_version.read_rows("validation")] == ["d"]
    assert [asked(row) for row in split_version.rows_between(2, 9, "train")] == ["c"], "a page ends with its split"
    assert [asked(row) for row in split_version.rows_between(-5, 9, "validation")] == ["d"], "nor does it begin before it"


def test_the_same_rows_and_splits_are_the_same_version(publish: Publish, split_version: DatasetVersion) -> None:
    again = publish(train=[chat("a"), chat("b"), chat("c", metadata={"task_id": "t"})], validation=[chat("d")])
    assert (again.version, again.created) == (split_version, False)
    moved = publish(train=[chat("a"), chat("b")], validation=[chat("c", metadata={"task_id": "t"}), chat("d")])
    assert moved.created and moved.version.number == 2, "a row on the other side is another version"
    renamed = publish(train=[chat("a"), chat("b")], test=[chat("c", metadata={"task_id": "t"}), chat("d")])
    assert renamed.created and renamed.version.content_hash != moved.version.content_hash


def test_rows_without_splits_keep_the_plain_hash_of_their_file(version: DatasetVersion, split_version: DatasetVersion) -> None:
    for each, is_plain in ((version, True), (split_version, False)):
        with each.file.open("rb") as stream:
            assert (hashlib.sha256(stream.read()).hexdigest() == each.content_hash) is is_plain
        assert validate_version(each).is_sound


def test_splits_that_were_changed_in_the_table_are_noticed(split_version: DatasetVersion) -> None:
    DatasetVersion.objects.update(splits=[{"name": "train", "num_rows": 4}])
    assert not validate_version(DatasetVersion.objects.get()).is_sound


def test_an_unknown_split_is_refused_by_naming_those_there_are(version: DatasetVersion, split_version: DatasetVersion) -> None:
    with pytest.raises(ConfigError, match=r"curated@1 has no split 'test'. It has train, validation\.") as refused:
        split_version.read_rows("test")
    assert refused.value.path == ("data", "split")
    with pytest.raises(ConfigError, match="It has no splits: leave the split away"):
        version.read_rows("train")


@pytest.mark.parametrize("name", ["", "../train", "train set", "a" * 65, "trän", "train\n", ".train", "train-1", "<b>"])
def test_a_name_that_no_hub_would_take_is_refused(publish: Publish, name: str) -> None:
    with pytest.raises(ConfigError, match="a name is made of"):
        publish(**{name: [chat("a")]})
    assert not Dataset.objects.exists()


def test_a_bad_row_stores_nothing_and_is_named_with_its_split(publish: Publish) -> None:
    bad = {"messages": [{"role": "user", "content": "only asked"}]}
    with pytest.raises(DataError, match="Split validation, row 2, messages") as refused:
        publish(train=[chat("a")], validation=[chat("b"), bad])
    assert refused.value.line == 2
    with pytest.raises(DataError, match="The split validation would have no rows"):
        publish(train=[chat("a")], validation=[])
    with pytest.raises(ConfigError, match="at least one split"):
        publish()
    assert not DatasetVersion.objects.exists()


def test_a_task_stands_in_one_split_only(publish: Publish) -> None:
    task = {"task_id": "t1", "messages": [{"role": "user", "content": "1+1"}], "answer": "2"}
    with pytest.raises(DataError, match="split train, row 1 has the same"):
        publish(RowFormat.TASK, train=[task], test=[task])


def test_a_failing_source_of_rows_leaves_nothing_behind(publish: Publish, settings: Any) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield chat("a")
        raise OSError("the attempts are gone")

    with pytest.raises(OSError, match="the attempts are gone"):
        publish(train=broken())
    assert not Dataset.objects.exists()


def test_rows_are_streamed(publish: Publish) -> None:
    text = "x" * 20_000
    tracemalloc.start()
    try:
        version = publish(train=(chat(f"{number}", text) for number in range(1500))).version
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert version.num_bytes > 30_000_000 and peak < 3_000_000


def test_a_stranger_publishes_nothing_here(publish: Publish, mallory: User) -> None:
    with pytest.raises(PermissionDenied):
        publish(user=mallory, train=[chat("a")])


def test_an_upload_has_no_splits(alice: User, project: Project, write_rows: WriteRows) -> None:
    path = write_rows(chat("a"))
    assert import_dataset(user=alice, project=project, name="plain", path=path).version.splits == []


def test_the_page_and_the_api_tell_of_splits(
    alice_client: Client, alice_headers: dict[str, str], split_version: DatasetVersion
) -> None:
    page = alice_client.get(split_version.get_absolute_url()).content.decode()
    assert "Splits" in page and "validation" in page
    url = f"/api/v1/datasets/versions/{split_version.pk}"
    assert alice_client.get(url, headers=alice_headers).json()["splits"] == split_version.splits
    rows = alice_client.get(f"{url}/rows?split=train&limit=2", headers=alice_headers).json()
    assert (rows["total"], rows["next_start"], [asked(row) for row in rows["rows"]]) == (3, 2, ["a", "b"])
    refused = alice_client.get(f"{url}/rows?split=nonsense", headers=alice_headers)
    assert refused.status_code == 422 and "It has train, validation" in refused.content.decode()
