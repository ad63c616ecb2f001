"""What changed between two versions: counted by row, whatever their order, and shown."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evsys_web.accounts.models import Project, User
from evsys_web.datasets import diffs
from evsys_web.datasets.actions import import_dataset, publish_splits
from evsys_web.datasets.models import DatasetVersion
from recipes.errors import ConfigError
from recipes.rows import RowFormat
from tests.evsys_web.datasets.conftest import WriteRows, chat


def published(user: User, project: Project, name: str = "curated", **splits: Any) -> DatasetVersion:
    chats = {split: [chat(text) for text in texts] for split, texts in splits.items()}
    return publish_splits(user=user, project=project, name=name, splits=chats, row_format=RowFormat.MESSAGES).version


@pytest.fixture
def pair(alice: User, project: Project) -> tuple[DatasetVersion, DatasetVersion]:
    before = published(alice, project, train=["a", "b", "b", "c", "<script>gone"], validation=["d"])
    return before, published(alice, project, train=["d", "b", "a", "<script>new", "e"], validation=["c"])


def test_rows_are_added_removed_kept_and_moved(pair: tuple[DatasetVersion, DatasetVersion]) -> None:
    found = diffs.diff(*pair)
    assert found.total == diffs.Counts("", 6, 6, added=2, removed=2, kept=4, moved_in=0)
    assert found.splits == [
        diffs.Counts("train", 5, 5, added=2, removed=2, kept=2, moved_in=1),
        diffs.Counts("validation", 1, 1, added=0, removed=0, kept=0, moved_in=1),
    ]
    assert (found.added, found.removed, found.is_same) == ([3, 4], [2, 4], False)


def test_the_same_rows_in_another_order_are_the_same(alice: User, project: Project) -> None:
    first, second = published(alice, project, train=["a", "b", "b"]), published(alice, project, train=["b", "a", "b"])
    assert diffs.diff(first, second).is_same


texts = st.lists(st.sampled_from("abcdef"), max_size=12)


@given(before=texts, after=texts)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_are_those_of_multisets(before: list[str], after: list[str]) -> None:
    import numpy as np

    old, new = (np.array([ord(text) for text in side], dtype=np.int64) for side in (before, after))
    mates = diffs._mates(old, new)
    kept = [mate for mate in mates.tolist() if mate >= 0]
    assert len(set(kept)) == len(kept) == (Counter(before) & Counter(after)).total()
    assert all(before[mate] == after[place] for place, mate in enumerate(mates.tolist()) if mate >= 0)


def test_the_page_shows_rows_as_chats_and_never_runs_them(
    alice_client: Client, pair: tuple[DatasetVersion, DatasetVersion]
) -> None:
    url = f"/datasets/versions/{pair[1].pk}/diff"
    page = alice_client.get(url).content.decode()
    assert "Reading 6 and 6 rows" in page and f"against={pair[0].pk}" in page
    body = alice_client.get(url, headers={"HX-Request": "true"}).content.decode()
    assert "&lt;script&gt;new" in body and "&lt;script&gt;gone" in body and "<script>" not in body
    assert 'id="added-row-4"' in body and 'id="removed-row-5"' in body
    assert f'href="/datasets/versions/{pair[0].pk}?row=5"' in body
    assert "Splits" not in body, "what is the same is not listed"


def test_a_first_version_has_nothing_to_compare_with(alice_client: Client, version: DatasetVersion) -> None:
    assert "Only one version" in alice_client.get(f"/datasets/versions/{version.pk}/diff").content.decode()


def test_other_formats_and_other_peoples_versions_are_refused(
    alice: User,
    project: Project,
    alice_client: Client,
    mallory: User,
    mallory_client: Client,
    alice_headers: dict[str, str],
    write_rows: WriteRows,
    version: DatasetVersion,
) -> None:
    tasks = import_dataset(
        user=alice, project=project, name="tasks", path=write_rows({"task_id": "1", "prompt": "a", "answer": "b"})
    ).version
    with pytest.raises(ConfigError, match="they have none in common"):
        diffs.diff(version, tasks)
    url, api = f"/datasets/versions/{version.pk}/diff", f"/api/v1/datasets/versions/{version.pk}/diff"
    refused = alice_client.get(f"{url}?against={tasks.pk}", headers={"HX-Request": "true"}).content.decode()
    assert "they have none in common" in refused
    assert alice_client.get(f"{api}?against={tasks.pk}", headers=alice_headers).status_code == 422
    theirs = published(mallory, mallory.default_project(), "hers", train=["secret"])
    for address, headers in ((f"{url}?against={theirs.pk}", {}), (f"{api}?against={theirs.pk}", alice_headers)):
        assert alice_client.get(address, headers=headers).status_code == 404
    assert mallory_client.get(url).status_code == 404
    assert alice_client.get(f"{url}?against=99999999999999999999").status_code == 200
    assert alice_client.get(f"{api}?against=99999999999999999999", headers=alice_headers).status_code == 422
    assert "is the first version" in alice_client.get(api, headers=alice_headers).content.decode()


def test_the_api_tells_the_same(
    alice_client: Client, alice_headers: dict[str, str], pair: tuple[DatasetVersion, DatasetVersion]
) -> None:
    before, after = pair
    url = f"/api/v1/datasets/versions/{after.pk}/diff?limit=1"
    found = alice_client.get(url, headers=alice_headers).json()
    assert found["before"]["id"] == before.pk, "the version before it, when none is named"
    assert (found["total"]["added"], found["total"]["removed"], found["total"]["kept"]) == (2, 2, 4)
    assert [row["position"] for row in found["added"]] == [3] and [row["position"] for row in found["removed"]] == [2]
    assert found["added"][0]["row"]["messages"][0]["content"] == "<script>new"
    assert {fact["label"] for fact in found["facts"]} >= {"Content"}
