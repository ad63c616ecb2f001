"""JSON as strictly as its standard, one line at a time: what Python's reader lets pass (NaN, duplicate keys, endless nesting) or
answers with a traceback becomes a DataError that names the place, what was found and what was expected."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from recipes.errors import DataError
from recipes.types import Row

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 64


class Scanned(NamedTuple):
    """One row of a file, or why it could not be read. `line` is what `place` counts: lines, items of an array, table rows."""

    line: int
    row: Row | DataError
    place: str = "line"


@dataclass(frozen=True, slots=True)
class At:
    """Where a row stands, to refuse it from there."""

    line: int
    place: str = "line"

    def refuse(self, path: str, found: Any, expected: str) -> NoReturn:
        raise self.error(path, found, expected)

    def error(self, path: str, found: Any, expected: str) -> DataError:
        where = f"{self.place.capitalize()} {self.line:,}" + (f", {path}" if path else "")
        what = shown(found)
        return DataError(
            f"{where}: found {what}; expected {expected}.", line=self.line, field=path or None, found=what, expected=expected
        )


class Words(str):
    """Text about what was found, shown as it is; other values are described by `shown`."""

    __slots__ = ()


NOTHING = Words("nothing")


def shown(value: Any) -> str:
    """A value in a few words: never more than about 90 characters of what a user's file holds."""
    if isinstance(value, Words):
        return str(value)
    if isinstance(value, dict):
        keys = ", ".join(str(key)[:30] for key in list(value)[:6])
        return f"an object with {'keys ' + keys if keys else 'no keys'}{', …' if len(value) > 6 else ''}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        kind = "empty text" if not value else "blank text" if not value.strip() else ""
        return kind or repr(value if len(value) <= 80 else value[:79] + "…")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)[:80]


def is_storable(row: Any) -> bool:
    """Whether JSON can carry the value within MAX_DEPTH. Quick: it does not say where the trouble is."""
    pending: list[Any] = [row]
    for _ in range(MAX_DEPTH + 2):
        if not pending:
            return True
        inner: list[Any] = []
        for value in pending:
            kind = type(value)
            if kind is str:
                if not value.isascii() and not _is_whole(value):
                    return False
            elif kind is dict:
                inner.extend(value)
                inner.extend(value.values())
                if any(type(key) is not str for key in value):
                    return False
            elif kind is list:
                inner.extend(value)
            elif kind is float:
                if not math.isfinite(value):
                    return False
            elif kind is not int and kind is not bool and value is not None:
                return False
        pending = inner
    return False


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_unstorable(row: Any, at: At) -> None:
    """Raises DataError for what JSON cannot carry: NaN, infinity, half a character, bytes, other objects, deep nesting."""
    if is_storable(row):
        return
    pending: list[tuple[str, Any, int]] = [("", row, 1)]
    while pending:
        path, value, depth = pending.pop()
        if isinstance(value, str):
            if not value.isascii():
                _refuse_half_characters(value, path, at)
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                at.refuse(path[:80], Words(f"nesting deeper than {MAX_DEPTH} levels"), f"at most {MAX_DEPTH} levels")
            if isinstance(value, list):
                pending.extend((f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value))
                continue
            for key, item in value.items():
                if not isinstance(key, str):
                    at.refuse(path, Words(f"a key that is {shown(key)}"), "keys that are text")
                _refuse_half_characters(key, path, at)
                pending.append((f"{path}.{key}" if path else key, item, depth + 1))
        elif isinstance(value, float):
            if not math.isfinite(value):
                at.refuse(path, Words(str(value)), "a finite number")
        elif value is not None and not isinstance(value, bool | int):
            at.refuse(path, Words(f"a value of type {type(value).__name__}"), "text, a number, true, false, a list or an object")


def _refuse_half_characters(text: str, path: str, at: At) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at.refuse(path, Words(f"half a surrogate pair (\\u{ord(text[error.start]):04x})"), "whole Unicode characters")


class _NotJSON(ValueError):
    """Valid for Python's reader, not for JSON's."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotJSON(f"{name}, which is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _NotJSON(f"the number {digits[:40]}, too large for a float")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _NotJSON(f"the key {twice[:60]!r} twice in one object")
    return row


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant)


def parse_json(text: bytes, at: At) -> Any:
    """One JSON value from UTF-8 bytes. Raises DataError, also for NaN, duplicate keys, deep nesting."""
    try:
        return _decoder.decode(text.decode())
    except UnicodeDecodeError as error:
        at.refuse(
            "",
            Words(f"byte 0x{text[error.start]:02x} at position {error.start + 1:,}"),
            "text in UTF-8; save the file in that encoding",
        )
    except json.JSONDecodeError as error:
        there = shown(error.doc[error.pos : error.pos + 30])
        found = Words(f"broken JSON ({error.msg.rstrip(':').removesuffix(' at')} at character {error.pos + 1:,}: {there})")
        at.refuse("", found, "one whole JSON object")
    except _NotJSON as error:
        at.refuse("", Words(str(error)), "strict JSON")
    except RecursionError:
        at.refuse("", Words("nesting too deep to read"), f"at most {MAX_DEPTH} levels")
    except ValueError:  # an integer of more digits than Python converts
        at.refuse("", Words("a number of several thousand digits"), "numbers of ordinary size")


def scan_jsonl(stream: BinaryIO) -> Iterator[Scanned]:
    """Every line that is not blank, as an object or as the DataError it gives; holds one line of MAX_LINE_BYTES at most."""
    line = 0
    while text := stream.readline(MAX_LINE_BYTES + 1):
        line += 1
        at = At(line)
        if len(text) > MAX_LINE_BYTES and not text.endswith(b"\n"):
            while text and not text.endswith(b"\n"):
                text = stream.readline(MAX_LINE_BYTES)
            yield Scanned(line, at.error("", Words("a line that is too long"), f"at most {MAX_LINE_BYTES // 2**20} MiB per line"))
            continue
        text = (text.removeprefix(b"\xef\xbb\xbf") if line == 1 else text).strip()
        if text:
            yield Scanned(line, object_or_error(text, at))


def object_or_error(text: bytes, at: At) -> Row | DataError:
    """The JSON object in `text`, or the refusal as a value, so that one bad row does not end a scan."""
    try:
        row = parse_json(text, at)
    except DataError as error:
        return error
    return row if isinstance(row, dict) else at.error("", row, "one JSON object per row")


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Line numbers and objects as they stand in the file, not yet parsed. Raises DataError at the first line that is none."""
    with path.open("rb") as stream:
        for line, row, _ in scan_jsonl(stream):
            if isinstance(row, DataError):
                raise row
            yield line, row


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def canonical_line(row: Row) -> bytes:
    """The row as one line of compact UTF-8 JSON. The order of keys is kept: templates print tool definitions in it."""
    return _encoder.encode(row).encode() + b"\n"
