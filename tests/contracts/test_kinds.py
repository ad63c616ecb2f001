"""docs/kinds.md has a line for every kind and a column for every backend, and says of each pair what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipes.registry import algorithms, backends, backends_for, samples_in_training, sampling_backends

pytestmark = pytest.mark.once

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "kinds.md").read_text()
BY_ITSELF = "by itself"
BUILT_IN = {registry.noun: sorted(registry._paths) for registry in (algorithms, backends)}


def table(title: str) -> list[dict[str, str]]:
    """The rows of the table below this heading, by column; kinds without their backticks."""
    lines = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert lines is not None, title
    head, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[1].splitlines() if line.startswith("|")
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_every_kind_and_every_backend_is_there_once() -> None:
    first = table("What trains where")
    assert sorted(row["kind"] for row in first) == BUILT_IN["algorithm"]
    assert sorted(set(first[0]) - {"kind", BY_ITSELF}) == BUILT_IN["backend"]
    assert sorted(row["backend"] for row in table("How each backend was tested")) == BUILT_IN["backend"]
    assert sorted(row["kind"] for row in table("How each kind was tested")) == BUILT_IN["algorithm"]


@pytest.mark.parametrize("row", table("What trains where"), ids=lambda row: row["kind"])
def test_it_trains_where_the_table_says(row: dict[str, str]) -> None:
    needs_backend = getattr(algorithms.get(row["kind"]), "needs_backend", True)
    usable = set(backends_for(row["kind"])) if needs_backend else {BY_ITSELF}
    assert {place for place, word in row.items() if word == "yes"} == usable
    assert set(row.values()) <= {row["kind"], "yes", "no"}


@pytest.mark.parametrize("row", table("How each backend was tested"), ids=lambda row: row["backend"])
def test_it_is_sampled_from_where_the_table_says(row: dict[str, str]) -> None:
    assert row["sampled from here"] == ("yes" if row["backend"] in sampling_backends() else "no")
    assert row["sampled while it trains"] == ("yes" if samples_in_training(row["backend"]) else "no")
    assert row["tested on"] and row["never seen"]
