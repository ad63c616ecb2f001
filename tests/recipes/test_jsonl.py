from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import DataError
from recipes.jsonl import (
    MAX_DEPTH,
    MAX_LINE_BYTES,
    At,
    canonical_line,
    is_storable,
    parse_json,
    read_jsonl,
    refuse_unstorable,
    scan_jsonl,
)


def errors(text: bytes) -> list[DataError]:
    return [row for _, row, _ in scan_jsonl(io.BytesIO(text)) if isinstance(row, DataError)]


def test_blank_lines_and_a_byte_order_mark_are_passed_over_and_lines_keep_their_numbers() -> None:
    text = b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"b": 2}'
    assert [(line, row) for line, row, _ in scan_jsonl(io.BytesIO(text))] == [(1, {"a": 1}), (4, {"b": 2})]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a": 1', "broken JSON"),
        (b"{'a': 1}", "broken JSON"),
        (b'{"a": 1} {"b": 2}', "Extra data at character 10"),
        (b'{"a": NaN}', "NaN, which is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large for a float"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nesting too deep"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "several thousand digits"),
        (b'{"a": "\xff"}', "byte 0xff at position 8"),
        (b"[1, 2]", "one JSON object per row"),
        (b"3", "found 3"),
        (b'"text"', "found 'text'"),
    ],
)
def test_a_line_that_is_no_strict_json_object_is_one_error_with_its_number(line: bytes, words: str) -> None:
    found = errors(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert len(found) == 1
    assert found[0].line == 2
    assert words in str(found[0])
    assert found[0].expected


def test_a_line_that_is_too_long_is_passed_over_without_being_held() -> None:
    rows = list(scan_jsonl(io.BytesIO(b'{"a": "' + b"x" * (MAX_LINE_BYTES + 10) + b'"}\n{"b": 2}\n')))
    assert "too long" in str(rows[0].row)
    assert rows[1][:2] == (2, {"b": 2})


def test_a_line_of_exactly_the_limit_is_read() -> None:
    line = b'{"a": "' + b"x" * (MAX_LINE_BYTES - 9) + b'"}'
    assert len(line) == MAX_LINE_BYTES
    assert [row.line for row in scan_jsonl(io.BytesIO(line + b"\n{}")) if not isinstance(row.row, DataError)] == [1, 2]


def test_reading_a_file_stops_at_the_first_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 70_000 + b'{"a": \n')
    with pytest.raises(DataError, match=r"^Line 70,001: found broken JSON") as caught:
        list(read_jsonl(path))
    assert caught.value.line == 70_001


def test_a_canonical_line_reads_back_and_keeps_order_and_letters() -> None:
    row = {"b": "ünï😀", "a": [1.0, None, True]}
    line = canonical_line(row)
    assert line == '{"b":"ünï😀","a":[1.0,null,true]}\n'.encode()
    assert parse_json(line, At(1)) == row


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, 2.5, True, None, "ü"], "b": {"c": {}}}, ""),
        (nested(MAX_DEPTH), ""),
        (nested(MAX_DEPTH + 1), "nesting deeper"),
        ({"a": {"\udc00": 1}}, "surrogate"),
        ({"a": [{"b": "\ud800"}]}, "a[0].b"),
        ({"a": {1: 2}}, "a key that is 1"),
        ({"a": [float("inf")]}, "a[0]: found inf"),
        ({"a": (1, 2)}, "type tuple"),
    ],
)
def test_the_quick_check_and_the_one_that_says_where_agree(value: Any, words: str) -> None:
    assert is_storable(value) is not bool(words)
    if words:
        with pytest.raises(DataError, match=re.escape(words)):
            refuse_unstorable(value, At(1))
    else:
        refuse_unstorable(value, At(1))
