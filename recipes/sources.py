"""Files of rows: JSONL, a JSON array, CSV, Parquet, each streamed as `Scanned` rows within bounded memory."""

from __future__ import annotations

import csv
import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from recipes.errors import DataError
from recipes.jsonl import MAX_LINE_BYTES, At, Scanned, Words, object_or_error, parse_json, scan_jsonl, shown
from recipes.parquet_rows import from_columns, is_ours, splits_in
from recipes.types import Row

JSON_COLUMNS = frozenset({"messages", "conversations", "tools", "metadata", "history", "input_messages"})
"""Columns whose cells hold JSON in a CSV file; all other cells are text."""
PARQUET_BATCH_ROWS = 256
MAX_PARQUET_BATCH_BYTES = 256 * 2**20
"""Of what is unpacked at once: a value that a dictionary holds once may stand in every row."""
MAX_PARQUET_GROWTH, GROWTH_MATTERS_FROM = 1000, 64 * 2**20
"""Rows shrink to a tenth, repeated ones to a hundredth."""
CHUNK_BYTES = 1024 * 1024


class FileKind(StrEnum):
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


FOREIGN_FILES = (
    (b"\x1f\x8b", "a gzip archive", "the unpacked file"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "the unpacked file, or the sheet saved as CSV"),
    (b"(\xb5/\xfd", "a zstd archive", "the unpacked file"),
    (b"%PDF", "a PDF", "JSONL, JSON, CSV or Parquet"),
    (b"\xff\xfe", "text in UTF-16", "text in UTF-8; save the file in that encoding"),
    (b"\xfe\xff", "text in UTF-16", "text in UTF-8; save the file in that encoding"),
)


def sniff(path: Path, filename: str = "") -> FileKind:
    """The kind of a file, by its first bytes and then its name. Raises DataError for an empty file and for what holds no rows."""
    with path.open("rb") as stream:
        head = stream.read(64 * 1024)
    at = At(1)
    if head.startswith(b"PAR1"):
        return FileKind.PARQUET
    for magic, found, expected in FOREIGN_FILES:
        if head.startswith(magic):
            at.refuse("", Words(found), expected)
    if b"\0" in head:
        at.refuse("", Words("a binary file"), "JSONL, JSON, CSV or Parquet")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text and path.stat().st_size <= len(head):
        at.refuse("", Words("an empty file"), "at least one row")
    suffix = Path(filename).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return FileKind.CSV
    if suffix == ".parquet":
        at.refuse("", Words("a file that is no Parquet, in spite of its name"), "Parquet")
    if text.startswith(b"["):
        return FileKind.JSON
    if text.startswith(b"{") or suffix in (".jsonl", ".ndjson", ".json"):
        return FileKind.JSONL
    if any(separator in text.split(b"\n", 1)[0] for separator in (b",", b";", b"\t")):
        return FileKind.CSV
    at.refuse("", Words(f"text that begins {shown(text[:40].decode(errors='replace'))}"), "JSONL, JSON, CSV or Parquet")


def scan(path: Path, kind: FileKind) -> Iterator[Scanned]:
    """The rows of a file in order, or why one could not be read. A scan ends where the rest cannot be read."""
    if kind is FileKind.PARQUET:
        yield from _scan_parquet(path)
        return
    with path.open("rb") as stream:
        yield from {FileKind.JSONL: scan_jsonl, FileKind.JSON: scan_json_array, FileKind.CSV: scan_csv}[kind](stream)


STRUCTURE = re.compile(rb'["\[\]{},]')
STRING_END = re.compile(rb'["\\]')


class _ItemCutter:
    """Cuts the items out of a JSON array, chunk by chunk, by counting brackets outside strings; it parses nothing."""

    def __init__(self) -> None:
        self.item = bytearray()
        self.depth = 0
        self.in_string = False
        self.escaped = False
        self.closed = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The items that end in this chunk."""
        position = start = 0
        while position < len(chunk):
            if self.escaped:
                self.escaped, position = False, position + 1
                continue
            match = (STRING_END if self.in_string else STRUCTURE).search(chunk, position)
            if match is None:
                break
            position, mark = match.end(), match.group()
            if mark == b"\\":
                self.escaped = True
            elif mark == b'"':
                self.in_string = not self.in_string
            elif mark in b"[{":
                self.depth += 1
                if self.depth == 1:
                    start = position
            elif mark in b"]}":
                self.depth -= 1
            if self.depth <= 0 or (self.depth == 1 and mark == b","):
                self.closed = self.depth <= 0
                yield bytes(self.item + chunk[start : match.start()]).strip()
                self.item.clear()
                start = position
                if self.closed:
                    break
        self.item += chunk[start:]


def scan_json_array(stream: BinaryIO) -> Iterator[Scanned]:
    """The objects of one JSON array, numbered from 1 as items."""
    cutter, number = _ItemCutter(), 0
    chunk = stream.read(CHUNK_BYTES).removeprefix(b"\xef\xbb\xbf")
    while chunk and not cutter.closed:
        for text in cutter.feed(chunk):
            if not text and cutter.closed and number == 0:
                return
            number += 1
            at = At(number, "item")
            if len(text) > MAX_LINE_BYTES:
                yield Scanned(number, _too_long(at), "item")
            else:
                yield Scanned(number, object_or_error(text, at), "item")
        if len(cutter.item) > MAX_LINE_BYTES and not cutter.closed:
            yield Scanned(number + 1, _too_long(At(number + 1, "item")), "item")
            return
        chunk = stream.read(CHUNK_BYTES)
    rest = bytes(cutter.item).strip() or chunk.strip()
    if not cutter.closed and rest:  # the last item, whole or cut off
        number += 1
        yield Scanned(number, object_or_error(rest, At(number, "item")), "item")
    after = At(number + 1, "item")
    if not cutter.closed:
        yield Scanned(after.line, after.error("", Words("the end of the file"), "the ] that closes the array"), "item")
    elif rest:
        yield Scanned(
            after.line, after.error("", rest[:40].decode(errors="replace"), "nothing after the ] that closes the array"), "item"
        )


def _too_long(at: At) -> DataError:
    return at.error("", Words("an item that is too long"), f"at most {MAX_LINE_BYTES // 2**20} MiB per item")


def _text_lines(stream: BinaryIO) -> Iterator[str]:
    """Decoded lines with their ends. Raises DataError."""
    line = 0
    while text := stream.readline(MAX_LINE_BYTES + 1):
        line += 1
        at = At(line)
        if len(text) > MAX_LINE_BYTES:
            at.refuse("", Words("a line that is too long"), f"at most {MAX_LINE_BYTES // 2**20} MiB per line")
        try:
            yield (text.removeprefix(b"\xef\xbb\xbf") if line == 1 else text).decode()
        except UnicodeDecodeError as error:
            at.refuse(
                "", Words(f"byte 0x{text[error.start]:02x} at position {error.start + 1:,}"), "text in UTF-8; save the file so"
            )


def scan_csv(stream: BinaryIO) -> Iterator[Scanned]:
    """Rows under the header's names; `line` is the line a row ends on. Empty cells are absent."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _text_lines(stream)
    try:
        first = next(lines)
        separator = max(",;\t", key=first.count)
        reader = csv.reader(_again(first, lines), delimiter=separator, strict=True)
        header = [name.strip() for name in next(reader)]
        at = At(reader.line_num)
        for index, name in enumerate(header):
            if not name or name in header[:index]:
                at.refuse(f"column {index + 1}", name, "a name of its own for each column")
        for cells in reader:
            if cells:
                yield _csv_row(header, cells, At(reader.line_num))
    except DataError as error:
        yield Scanned(error.line or 1, error)
    except csv.Error as error:
        at = At(reader.line_num)
        yield Scanned(
            at.line, at.error("", Words(f"broken CSV ({error})"), "cells with quotes that are closed and doubled inside")
        )


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _csv_row(header: list[str], cells: list[str], at: At) -> Scanned:
    if len(cells) != len(header):
        found = Words(f"{len(cells)} cells")
        return Scanned(at.line, at.error("", found, f"{len(header)}, one for each column of the header"))
    row: Row = {}
    for name, cell in zip(header, cells, strict=True):
        if cell == "":
            continue
        if name not in JSON_COLUMNS:
            row[name] = cell
            continue
        try:
            row[name] = parse_json(cell.encode(), at)
        except DataError:
            return Scanned(at.line, at.error(name, cell, "JSON in this column"))
    return Scanned(at.line, row)


def _scan_parquet(path: Path) -> Iterator[Scanned]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            convert = from_columns if is_ours(file.schema_arrow) else _plain_row
            _refuse_bomb(file.metadata, path.stat().st_size)
            for batch in file.iter_batches(batch_size=_rows_at_once(file.metadata), use_threads=False):
                if batch.nbytes > MAX_PARQUET_BATCH_BYTES:
                    At(number + 1, "row").refuse("", Words(f"{batch.num_rows} rows of {batch.nbytes // 2**20} MiB"), _SMALLER)
                for values in batch.to_pylist():
                    number += 1
                    yield Scanned(number, _converted(values, convert, At(number, "row")), "row")
    except DataError as error:
        yield Scanned(number + 1, error, "row")
    except (pyarrow.ArrowException, OSError) as error:
        at = At(number + 1, "row")
        yield Scanned(
            at.line,
            at.error("", Words(f"a Parquet file that cannot be read ({shown(Words(str(error)))[:200]})"), "a whole Parquet file"),
            "row",
        )


_SMALLER = f"rows of which {PARQUET_BATCH_ROWS} take at most {MAX_PARQUET_BATCH_BYTES // 2**20} MiB"


def _refuse_bomb(metadata: Any, num_bytes: int) -> None:
    """By what the file says of itself, before anything is unpacked. Raises DataError."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    if unpacked > GROWTH_MATTERS_FROM and unpacked > MAX_PARQUET_GROWTH * num_bytes:
        found = Words(f"a file that would unpack to {unpacked // max(num_bytes, 1):,} times its size")
        At(1, "row").refuse("", found, "a Parquet file of rows")


def _rows_at_once(metadata: Any) -> int:
    """So few that they stay within MAX_PARQUET_BATCH_BYTES though each holds the largest value that a dictionary may hold."""
    largest = 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(number) for number in range(group.num_columns)]
        largest = max(largest, *(c.total_uncompressed_size for c in columns if c.has_dictionary_page), 1)
    return max(1, min(PARQUET_BATCH_ROWS, MAX_PARQUET_BATCH_BYTES // largest))


def _converted(values: Row, convert: Callable[[Row, At], Row], at: At) -> Row | DataError:
    try:
        return convert(values, at)
    except DataError as error:
        return error


def _plain_row(values: Row, at: At) -> Row:
    return {key: _plain(value) for key, value in values.items()}


def declared_splits(path: Path) -> list[Row]:
    """The splits that a Parquet file of our own says it holds, as [{"name", "num_rows"}, …]; [] for any other file."""
    import pyarrow
    import pyarrow.parquet

    try:
        return splits_in(pyarrow.parquet.read_schema(path))
    except (pyarrow.ArrowException, OSError):
        return []


def _plain(value: Any) -> Any:
    """Table values as JSON has them: dates and exact decimals become text, bytes that are UTF-8 too."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID | datetime.timedelta):
        return str(value)
    return value
