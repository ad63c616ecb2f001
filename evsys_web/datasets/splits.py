"""Splits of a version: named stretches of its rows, one after another in the order of the file, which together are all rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from recipes.errors import ConfigError
from recipes.jsonl import canonical_line

TRAIN = "train"
VALIDATION = "validation"
MAX_SPLITS = 50
MAX_NAME_LENGTH = 64
NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)
"""What the Hugging Face hub takes as a split, so that a version can go there and come back."""


class Split(NamedTuple):
    """Rows start … stop - 1 of the version, counted from 0."""

    name: str
    start: int
    num_rows: int

    @property
    def stop(self) -> int:
        return self.start + self.num_rows


def stretches(stored: Iterable[Mapping[str, Any]]) -> list[Split]:
    """The splits as a version's row holds them, with where each begins."""
    found: list[Split] = []
    start = 0
    for each in stored:
        found.append(Split(each["name"], start, each["num_rows"]))
        start += each["num_rows"]
    return found


def content_hash(lines_hash: str, stored: Sequence[Mapping[str, Any]]) -> str:
    """Of rows and splits, in hex: the sha256 of the stored lines, and where there are splits the sha256 of that and of them."""
    if not stored:
        return lines_hash
    splits = [[each["name"], each["num_rows"]] for each in stored]
    return hashlib.sha256(canonical_line({"lines": lines_hash, "splits": splits})).hexdigest()


def check_names(names: Collection[str]) -> None:
    """Raises ConfigError with path ("splits",)."""
    if len(set(names)) != len(names):
        raise ConfigError("Two splits have the same name.", path=("splits",))
    if len(names) > MAX_SPLITS:
        raise ConfigError(f"A version holds at most {MAX_SPLITS} splits; these are {len(names):,}.", path=("splits",))
    for name in names:
        if len(name) > MAX_NAME_LENGTH or not NAME.fullmatch(name):
            raise ConfigError(
                f"Split {name[:80]!r}: a name is made of the letters a to z, digits, underscores and single dots between them,"
                f" at most {MAX_NAME_LENGTH} characters. For example train or validation.",
                path=("splits",),
            )
