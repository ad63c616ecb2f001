"""Which rows hold a text: a scan that stops when its time is up and says where to go on. No index: a version may be searched once
in its life, and reading 500 MB takes about a second."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from evsys_web.datasets.rowfile import RowFile
from evsys_web.datasets.splits import Split
from recipes.errors import ConfigError
from recipes.types import Row

FIELDS = {
    "": "anywhere",
    "user": "user turns",
    "assistant": "assistant turns",
    "system": "system turns",
    "tool": "tool turns",
    "task_id": "task id",
    "answer": "answer",
    "metadata": "metadata",
}
SECONDS = 1.0
MAX_FOUND = 20
MAX_TEXT = 200


class Found(NamedTuple):
    """Rows with their positions from 0 in the version; the row to go on from (the stretch's end when all was searched)."""

    rows: list[tuple[int, Row]]
    next_start: int


def search(
    rows: RowFile,
    text: str,
    *,
    within: Split,
    start: int = 0,
    field: str = "",
    max_found: int = MAX_FOUND,
    seconds: float = SECONDS,
) -> Found:
    """Rows of the stretch, from `start` on, that hold `text` whatever its case; ends after `max_found`, or when `seconds` passed,
    though never before it got further. Raises ConfigError for a field that is none."""
    if field not in FIELDS:
        known = ", ".join(filter(None, FIELDS))
        raise ConfigError(f"There is no field {field[:40]!r}. Search in one of: {known}.", path=("field",))
    wanted = text.casefold()
    stored = json.dumps(text, ensure_ascii=False)[1:-1].casefold()
    found: list[tuple[int, Row]] = []
    deadline = time.monotonic() + seconds
    position = max(start, within.start)
    for lines in rows.chunks(position, within.stop):
        if stored in lines.decode().casefold():
            for number, line in enumerate(lines.splitlines(), start=position):
                if stored in line.decode().casefold() and _holds(row := json.loads(line), field, wanted):
                    found.append((number, row))
                    if len(found) == max_found:
                        return Found(found, number + 1)
                if number % 256 == 0 and time.monotonic() > deadline:
                    return Found(found, number + 1)
        position += lines.count(b"\n")
        if time.monotonic() > deadline:
            break
    return Found(found, min(position, within.stop))


def _holds(row: Row, field: str, wanted: str) -> bool:
    return any(wanted in text.casefold() for text in _texts(row, field))


def _texts(row: Row, field: str) -> Iterator[str]:
    """What a person would read in that field of a parsed row: contents of turns, not the keys and roles around them."""
    if field in ("", "user", "assistant", "system", "tool"):
        for part in ("prompt", "messages", "chosen", "rejected"):
            for message in row.get(part, ()):
                if field in ("", message["role"]):
                    yield from _strings({key: value for key, value in message.items() if key != "role"})
    for name in ("task_id", "answer", "metadata"):
        if field in ("", name) and name in row:
            yield from _strings(row[name], with_keys=True)
    if not field:
        yield from _strings([row.get("verifier"), row.get("tools")])


def _strings(value: Any, *, with_keys: bool = False) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if with_keys:
                yield key
            yield from _strings(item, with_keys=with_keys)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, with_keys=with_keys)
    elif value is not None:
        yield json.dumps(value)
