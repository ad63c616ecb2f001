"""Paths cannot leave the root; what is written is there as a whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipes.errors import DataError
from recipes.protocols import DataStore
from recipes.stores import InMemoryDataStore, LocalDataStore, metrics_from_json, metrics_to_json


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DataStore:
    return LocalDataStore(tmp_path / "root") if request.param == "local" else InMemoryDataStore()


def test_what_is_written_is_read_back(store: DataStore) -> None:
    rows: list[dict[str, Any]] = [{"a": "Grüße"}, {"b": [1, 2]}]
    store.write_jsonl("deep/rows.jsonl", rows)
    store.write_json("value.json", {"x": 1})
    assert list(store.read_jsonl("deep/rows.jsonl")) == rows
    assert store.read_json("value.json") == {"x": 1}
    assert store.list() == ["deep/rows.jsonl", "value.json"]
    assert store.list("deep/") == ["deep/rows.jsonl"]
    assert store.exists("value.json") and not store.exists("other.json")


def test_what_is_not_there_is_refused_by_name(store: DataStore) -> None:
    with pytest.raises(DataError, match=r"no file absent\.json"):
        store.read_json("absent.json")


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd", "a/../../outside.json", "link/outside.json", "nul\0byte"])
def test_a_path_cannot_lead_out_of_the_folder(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.json").write_text("{}")
    (root / "link").symlink_to(tmp_path)
    store = LocalDataStore(root)
    for attempt in (lambda: store.read_json(path), lambda: store.write_json(path, {}), lambda: store.exists(path)):
        with pytest.raises(DataError):
            attempt()
    assert (tmp_path / "outside.json").read_text() == "{}"


def test_a_broken_line_is_refused_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError) as refusal:
        list(LocalDataStore(tmp_path).read_jsonl("rows.jsonl"))
    assert refusal.value.line == 2


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    store = LocalDataStore(tmp_path)
    store.write_json("value.json", 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        store.write_json("value.json", float("nan"))
    assert store.read_json("value.json") == 1


def test_metrics_that_are_no_numbers_survive_json() -> None:
    values = metrics_to_json({"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 1.5})
    assert values == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1.5}
    assert str(metrics_from_json(values)) == str({"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 1.5})
