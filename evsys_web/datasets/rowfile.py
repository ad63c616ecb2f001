"""Rows on disk: canonical JSONL, and beside it the byte offset of every 1000th row, so that row 900,000 is one seek away."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Iterator
from itertools import islice
from typing import IO

from django.core.files.base import File
from django.db.models.fields.files import FieldFile

from recipes.errors import DataError
from recipes.rows import canonical_line
from recipes.types import Row

ROWS_PER_OFFSET = 1000
OFFSET = struct.Struct("<Q")
CHUNK_BYTES = 1024 * 1024


def opened(file: FieldFile) -> File[bytes]:
    """A stored file to read, apart from its row's own handle. Raises DataError when it is no longer there."""
    try:
        return file.storage.open(str(file.name), "rb")
    except FileNotFoundError:
        gone = f"The stored file {file.name} is gone: somebody removed it from the disk."
        raise DataError(f"{gone} Put it back from a backup, or upload the rows again.") from None


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

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The stored lines of rows start … stop - 1 in stretches of about CHUNK_BYTES, each of whole lines."""
        start, stop = max(0, start), min(stop, self.num_rows)
        if start >= stop:
            return
        with opened(self.file) as stream:
            stream.seek(self._offset_of(start // ROWS_PER_OFFSET))
            for _ in range(start % ROWS_PER_OFFSET):
                stream.readline()
            left = stop - start
            while left > 0 and (chunk := stream.read(CHUNK_BYTES)):
                if not chunk.endswith(b"\n"):
                    chunk += stream.readline()
                num_rows = chunk.count(b"\n")
                yield chunk if num_rows <= left else b"".join(islice(io.BytesIO(chunk), left))
                left -= num_rows

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
