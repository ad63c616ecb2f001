from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from recipes.errors import DataError
from recipes.jsonl import MAX_LINE_BYTES
from recipes.sources import CHUNK_BYTES, MAX_PARQUET_BATCH_BYTES, FileKind, scan, sniff


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows"


def rows(path: Path, kind: FileKind) -> list[Any]:
    return [row if not isinstance(row, DataError) else str(row) for _, row, _ in scan(path, kind)]


@pytest.mark.parametrize(
    ("content", "filename", "kind"),
    [
        (b'{"a": 1}\n', "x.jsonl", FileKind.JSONL),
        (b'\xef\xbb\xbf  [{"a": 1}]', "x.jsonl", FileKind.JSON),
        (b'[{"a": 1}]', "", FileKind.JSON),
        (b"a,b\n1,2\n", "x.csv", FileKind.CSV),
        (b"a;b\n1;2\n", "", FileKind.CSV),
        (b"a\n1\n", "x.CSV", FileKind.CSV),
        (b"nonsense", "x.jsonl", FileKind.JSONL),
        (b"\n" * 100_000 + b"{}", "x.jsonl", FileKind.JSONL),
        (b"PAR1....", "x.jsonl", FileKind.PARQUET),
    ],
)
def test_a_kind_is_told_by_content_and_then_by_name(path: Path, content: bytes, filename: str, kind: FileKind) -> None:
    path.write_bytes(content)
    assert sniff(path, filename) is kind


@pytest.mark.parametrize(
    ("content", "filename", "words"),
    [
        (b"", "", "an empty file"),
        (b" \n\xef", "x.jsonl", ""),
        (b"\x1f\x8b\x08", "x.jsonl.gz", "gzip"),
        (b"PK\x03\x04", "x.xlsx", "saved as CSV"),
        (b"\xfe\xff\x00{", "x.jsonl", "UTF-16"),
        (b'{"a"\x00', "x.jsonl", "a binary file"),
        (b"hello", "x.txt", "found text that begins 'hello'"),
        (b"a,b", "x.parquet", "no Parquet"),
    ],
)
def test_what_holds_no_rows_is_one_sentence(path: Path, content: bytes, filename: str, words: str) -> None:
    path.write_bytes(content)
    if not words:
        assert "byte 0xef" in rows(path, sniff(path, filename))[0]
        return
    with pytest.raises(DataError) as caught:
        sniff(path, filename)
    assert words in str(caught.value)


@pytest.mark.parametrize("padding", [0, CHUNK_BYTES - 30, CHUNK_BYTES - 10, CHUNK_BYTES])
def test_an_array_is_cut_into_items_wherever_a_chunk_ends(path: Path, padding: int) -> None:
    items = [{"a": 'br[ack]et{s}, "quo\\"tes" \\\\'}, {"b": [1, {"c": [2]}]}, {"d": "x" * padding}, {"e": "ü]"}]
    path.write_text(json.dumps(items, indent=1, ensure_ascii=False))
    assert rows(path, FileKind.JSON) == items


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[]", []),
        ("[ ]\n", []),
        ('[{"a": 1}', [{"a": 1}, "Item 2: found the end of the file"]),
        ('[{"a": 1},]', [{"a": 1}, "Item 2: found broken JSON"]),
        ('[{"a": 1}] x', [{"a": 1}, "Item 2: found 'x'; expected nothing after"]),
        ('[{"a": NaN}, {"b": 1}]', ["Item 1: found NaN", {"b": 1}]),
        ('[1, {"b": 1}]', ["Item 1: found 1; expected one JSON object", {"b": 1}]),
        ("[" * 3000 + "]" * 3000, ["Item 1: found nesting too deep"]),
        ('[{"a": "' + "x" * (MAX_LINE_BYTES + 5) + '"}]', ["Item 1: found an item that is too long"]),
    ],
)
def test_an_array_names_the_item_that_is_wrong(path: Path, text: str, found: list[Any]) -> None:
    path.write_text(text)
    seen = rows(path, FileKind.JSON)
    assert len(seen) == len(found)
    for row, expected in zip(seen, found, strict=True):
        assert row.startswith(expected) if isinstance(expected, str) else row == expected


def test_csv_cells_are_text_and_columns_of_messages_are_json(path: Path) -> None:
    messages = [{"role": "user", "content": 'a "b", c'}]
    cell = json.dumps(messages).replace('"', '""')
    path.write_text(f'\ufeffmessages,note,empty\r\n"{cell}","two\nlines",\r\n', newline="")
    assert rows(path, FileKind.CSV) == [{"messages": messages, "note": "two\nlines"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1\n3,4\n", "Line 2: found 1 cells; expected 2"),
        (b"a,a\n1,2\n", "Line 1, column 2: found 'a'; expected a name of its own"),
        (b"a,\n1,2\n", "Line 1, column 2: found empty text"),
        (b'a,b\n1,2\n"open,2\n', "broken CSV"),
        (b"a,b\n1,\xff\n", "Line 2: found byte 0xff at position 3"),
        (b'messages,b\n"[oops",2\n', "Line 2, messages: found '[oops'; expected JSON"),
        (b'messages,b\n"[{""a"": 1, ""a"": 2}]",2\n', "Line 2, messages"),
        (b"a,b\n" + b"x" * (MAX_LINE_BYTES + 2) + b",1\n", "too long"),
    ],
)
def test_csv_names_the_line_that_is_wrong(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    assert any(words in row for row in rows(path, FileKind.CSV) if isinstance(row, str))


def test_parquet_gives_plain_values_batch_by_batch(path: Path) -> None:
    messages = [{"role": "user", "content": "a", "name": None}]
    days = [datetime.date(2026, 1, 2)] * 600
    table = pyarrow.table(
        {
            "id": list(range(600)),
            "messages": [messages] * 600,
            "day": days,
            "price": [decimal.Decimal("1.50")] * 600,
        }
    )
    pyarrow.parquet.write_table(table, path, row_group_size=100)
    assert sniff(path) is FileKind.PARQUET
    seen = rows(path, FileKind.PARQUET)
    assert len(seen) == 600
    assert seen[599] == {"id": 599, "messages": messages, "day": "2026-01-02", "price": "1.50"}


def test_a_parquet_that_is_cut_off_is_one_sentence(path: Path) -> None:
    path.write_bytes(b"PAR1" + b"x" * 100)
    assert "a Parquet file that cannot be read" in rows(path, FileKind.PARQUET)[0]


def test_a_parquet_that_would_unpack_to_thousands_of_times_its_size_is_refused_unread(path: Path) -> None:
    table = pyarrow.table({"prompt": [" " * 2**20] * 100})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    del table
    before = pyarrow.total_allocated_bytes()
    [row] = rows(path, FileKind.PARQUET)
    assert "would unpack to" in row and "times its size" in row
    assert pyarrow.total_allocated_bytes() - before < 2**20


def test_a_value_that_stands_in_every_row_is_unpacked_a_few_rows_at_a_time(path: Path) -> None:
    """A file of some hundred bytes: its dictionary holds 4 MiB once, its 2,000 rows only point there."""
    value = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2_000, pyarrow.int32()), pyarrow.array(["x" * 2**22]))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": value}), path, compression="zstd", row_group_size=2_000)
    assert path.stat().st_size < 10_000
    del value
    found = scan(path, FileKind.PARQUET)
    most = max(pyarrow.total_allocated_bytes() for _ in zip(range(200), found, strict=False))
    assert most < 2 * MAX_PARQUET_BATCH_BYTES
