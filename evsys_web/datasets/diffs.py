"""What two versions have in common, row by row. Every row becomes one 64-bit number, so that two files of a million rows each are
compared in some 100 MB; a row that occurs three times in one version and twice in the other is kept twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from django.core.cache import cache

from evsys_web.datasets.chats import ShownRow, shown_row
from evsys_web.datasets.models import DatasetVersion
from evsys_web.datasets.splits import Split, stretches
from recipes.errors import ConfigError

SHOWN_ROWS = 5
MAX_SHOWN = 100
CACHE_SECONDS = 24 * 3600

Hashes = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class Counts(NamedTuple):
    """Rows of one split, "" for the whole version: how many there were and are. added + kept + moved_in = after."""

    name: str
    before: int
    after: int
    added: int
    removed: int
    kept: int
    moved_in: int


class Fact(NamedTuple):
    label: str
    before: str
    after: str


@dataclass(frozen=True)
class Diff:
    """`added`: positions from 0 in `after` of the first rows that `before` has not; `removed`: the other way round."""

    total: Counts
    splits: list[Counts]
    added: list[int]
    removed: list[int]

    @property
    def is_same(self) -> bool:
        return not (self.total.added or self.total.removed or any(each.moved_in for each in self.splits))


def diff(before: DatasetVersion, after: DatasetVersion) -> Diff:
    """Kept for a day: versions never change. Raises ConfigError for versions of two formats, DataError when a file is gone."""
    if before.format != after.format:
        raise ConfigError(
            f"{before.reference} holds {before.format} rows and {after.reference} {after.format} rows: they have none in common.",
            path=("against",),
        )
    key = f"diff:{before.pk}:{before.content_hash}:{after.pk}:{after.content_hash}"
    found: Diff | None = cache.get(key)
    if found is None:
        found = _compare(before, after)
        cache.set(key, found, CACHE_SECONDS)
    return found


def _compare(before: DatasetVersion, after: DatasetVersion) -> Diff:
    old, new = _hashes(before), _hashes(after)
    mates = _mates(old, new)
    is_added = mates < 0
    is_removed = np.ones(len(old), dtype=np.bool_)
    is_removed[mates[~is_added]] = False
    old_splits = {each.name: each for each in stretches(before.splits)} or {"": before.stretch()}
    new_splits = {each.name: each for each in stretches(after.splits)} or {"": after.stretch()}
    nothing = Split("", 0, 0)
    splits = [
        _counts(name, old_splits.get(name, nothing), new_splits.get(name, nothing), mates, is_removed)
        for name in dict.fromkeys([*old_splits, *new_splits])
    ]
    total = _counts("", before.stretch(), after.stretch(), mates, is_removed)
    return Diff(total, splits if before.splits or after.splits else [], _first(is_added), _first(is_removed))


def _hashes(version: DatasetVersion) -> Hashes:
    """One number per row. Python's own hash of bytes: keyed anew in every process, so that nobody can craft rows that collide."""
    found = np.empty(version.num_rows, dtype=np.int64)
    position = 0
    for lines in version.rows.chunks(0, version.num_rows):
        rows = lines.splitlines()
        found[position : position + len(rows)] = np.fromiter(map(hash, rows), dtype=np.int64, count=len(rows))
        position += len(rows)
    return found[:position]


def _mates(old: Hashes, new: Hashes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each new row the old row that it is, -1 for none: the n-th of several equal rows is the n-th of them there."""
    by_hash = np.argsort(old, kind="stable")
    ordered = old[by_hash]
    order = np.argsort(new, kind="stable")
    wanted = new[order]
    starts_here = np.flatnonzero(np.r_[True, wanted[1:] != wanted[:-1]]) if len(wanted) else np.empty(0, dtype=np.int64)
    lengths = np.diff(np.r_[starts_here, len(wanted)])
    nth = np.arange(len(wanted)) - np.repeat(starts_here, lengths)
    place = np.searchsorted(ordered, wanted, side="left") + nth
    is_there = place < np.searchsorted(ordered, wanted, side="right")
    mates = np.full(len(new), -1, dtype=np.int64)
    mates[order[is_there]] = by_hash[place[is_there]]
    return mates


def _counts(name: str, old: Split, new: Split, mates: Any, is_removed: Flags) -> Counts:
    here = mates[new.start : new.stop]
    added = int((here < 0).sum())
    kept = int(((here >= old.start) & (here < old.stop)).sum()) if old.num_rows else 0
    removed = int(is_removed[old.start : old.stop].sum())
    return Counts(name, old.num_rows, new.num_rows, added, removed, kept, new.num_rows - added - kept)


def _first(flags: Flags) -> list[int]:
    return [int(position) for position in np.flatnonzero(flags)[:MAX_SHOWN]]


def shown_rows(version: DatasetVersion, positions: list[int], *, count: int = SHOWN_ROWS) -> list[ShownRow]:
    return [
        shown_row(row, version.format, position + 1)
        for position in positions[:count]
        for row in version.rows_between(position, position + 1)
    ]


def facts(before: DatasetVersion, after: DatasetVersion) -> list[Fact]:
    """What is said of the two versions and is not the same."""
    pairs = zip(_facts_of(before), _facts_of(after), strict=True)
    return [Fact(label, old, new) for (label, old), (_, new) in pairs if old != new]


def _facts_of(version: DatasetVersion) -> list[tuple[str, str]]:
    return [
        ("Rows", f"{version.num_rows:,}"),
        ("Splits", ", ".join(f"{each['name']} {each['num_rows']:,}" for each in version.splits)),
        ("Bytes", f"{version.num_bytes:,}"),
        ("Source", version.source),
        ("Converted", version.conversion),
        ("Left out", f"{version.num_left_out:,}"),
        ("Made by", version.created_by.username if version.created_by else ""),
        ("Made", f"{version.created_at:%Y-%m-%d %H:%M} UTC"),
        ("Content", version.content_hash[:12]),
    ]
