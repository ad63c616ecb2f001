"""Splits of a version: named stretches of its rows, one after another in the order of the file, which together are all rows.

A file of lines says in the field `split` of each row which one it belongs to: exports add it, imports take it, nothing stores it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from recipes.errors import ConfigError, DataError
from recipes.jsonl import Scanned, canonical_line

TRAIN = "train"
VALIDATION = "validation"
MAX_SPLITS = 50
MAX_NAME_LENGTH = 64
FIELD = "split"
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


def with_field(lines: bytes, name: str) -> bytes:
    """Stored lines, each with the split it belongs to as its last field."""
    return lines.replace(b"}\n", field_of(name) + b"}\n")  # a line break within a text is written as two characters


def field_of(name: str) -> bytes:
    """What `with_field` adds to each line."""
    return f",{json.dumps(FIELD)}:{json.dumps(name)}".encode()


class NoSplits(Exception):
    """The field does not stand in every row, or does not say which stretch of the file is which split."""


class FieldReader:
    """Takes the field off the rows of a file: `rest_of` the rows as they are read, then `counted` what was made of them, row
    for row. `sizes`: how many good rows each split has. Raises NoSplits where that is not what the field is for."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._name: str | None = None

    def rest_of(self, scanned: Iterable[Scanned]) -> Iterator[Scanned]:
        for each in scanned:
            if isinstance(each.row, dict):
                self._enter(each.row.get(FIELD))
                each = each._replace(row={key: value for key, value in each.row.items() if key != FIELD})
            yield each

    def counted(self, parsed: Iterable[Scanned]) -> Iterator[Scanned]:
        for each in parsed:
            if not isinstance(each.row, DataError) and self._name is not None:
                self.sizes[self._name] += 1
            yield each

    def splits(self) -> list[dict[str, Any]]:
        """As a version's row holds them."""
        return [{"name": name, "num_rows": size} for name, size in self.sizes.items() if size]

    def _enter(self, name: object) -> None:
        if name == self._name and name is not None:
            return
        if not isinstance(name, str) or name in self.sizes:
            raise NoSplits
        try:
            check_names([*self.sizes, name])
        except ConfigError:
            raise NoSplits from None
        self._name, self.sizes[name] = name, 0
