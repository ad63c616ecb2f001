"""Rows on disk: canonical JSONL, and beside it the byte offset of every 1000th row, so that row 900,000 is one seek away."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from itertools import islice
from typing import IO, NamedTuple

from django.core.files.base import File
from django.db.models.fields.files import FieldFile

from recipes.errors import DataError
from recipes.rows import canonical_line
from recipes.types import Row

ROWS_PER_OFFSET = 1000
OFFSET = struct.Struct("<Q")


def opened(file: FieldFile) -> File[bytes]:
    """A stored file to read, apart from its row's own handle. Raises DataError when it is no longer there."""
    try:
        return file.storage.open(str(file.name), "rb")
    except FileNotFoundError:
        gone = f"The stored file {file.name} is gone: somebody removed it from the disk."
        raise DataError(f"{gone} Put it back from a backup, or upload the rows again.") from None


class Found(NamedTuple):
    """Rows with their numbers from 0, and the row to search on from."""

    rows: list[tuple[int, Row]]
    next_start: int


class RowFile:
    """Reads a version's rows by number, without holding more than one at a time."""

    def __init__(self, file: FieldFile, offsets: FieldFile, num_rows: int) -> None:
        self.file = file
        self.offsets = offsets
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, rows: slice) -> list[Row]:
        """A page of rows, for a paginator."""
        return list(self.between(rows.start or 0, self.num_rows if rows.stop is None else rows.stop))

    def between(self, start: int, stop: int) -> Iterator[Row]:
        """Rows start … stop - 1, counted from 0, clipped to the rows there are."""
        for line in self._lines(start, stop):
            yield json.loads(line)

    def search(self, text: str, *, start: int = 0, max_rows: int = 20_000, max_found: int = 20) -> Found:
        """Rows that hold `text`, whatever its case, among the `max_rows` from `start`; stops after `max_found`."""
        needle = json.dumps(text, ensure_ascii=False)[1:-1].casefold()
        found: list[tuple[int, Row]] = []
        stop = min(start + max_rows, self.num_rows)
        for number, line in enumerate(self._lines(start, stop), start=start):
            if needle in line.decode().casefold():
                found.append((number, json.loads(line)))
                if len(found) == max_found:
                    return Found(found, number + 1)
        return Found(found, stop)

    def _lines(self, start: int, stop: int) -> Iterator[bytes]:
        start, stop = max(0, start), min(stop, self.num_rows)
        if start >= stop:
            return
        with opened(self.file) as stream:
            stream.seek(self._offset_of(start // ROWS_PER_OFFSET))
            lines = iter(stream.readline, b"")  # iterating over Django's own File would go back to the first byte
            yield from islice(lines, start % ROWS_PER_OFFSET, stop - start + start % ROWS_PER_OFFSET)

    def _offset_of(self, block: int) -> int:
        if block == 0:
            return 0
        with opened(self.offsets) as stream:
            stream.seek(block * OFFSET.size)
            offset: int = OFFSET.unpack(stream.read(OFFSET.size))[0]
        return offset


class RowFileWriter:
    """Writes rows and their offsets, and hashes on the way. `lines` and `offsets` are open binary files."""

    def __init__(self, lines: IO[bytes], offsets: IO[bytes]) -> None:
        self._lines = lines
        self._offsets = offsets
        self._hash = hashlib.sha256()
        self.num_rows = 0
        self.num_bytes = 0

    def write(self, row: Row) -> None:
        line = canonical_line(row)
        if self.num_rows % ROWS_PER_OFFSET == 0:
            self._offsets.write(OFFSET.pack(self.num_bytes))
        self._lines.write(line)
        self._hash.update(line)
        self.num_rows += 1
        self.num_bytes += len(line)

    @property
    def lines_hash(self) -> str:
        """sha256 in hex of everything written so far."""
        return self._hash.hexdigest()
