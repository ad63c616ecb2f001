"""Files that are made while they are sent: nothing is held in memory, and a browser saves them instead of showing them."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header

CHUNK_BYTES = 256 * 1024


def attachment(
    chunks: Iterable[bytes], filename: str, *, content_type: str = "application/octet-stream"
) -> StreamingHttpResponse:
    """Under ASGI Django would collect a plain iterator whole before it sends the first byte, hence the asynchronous one."""
    response = StreamingHttpResponse(_in_turn(iter(chunks)), content_type=content_type)
    response["Content-Disposition"] = content_disposition_header(True, filename)
    response["Cache-Control"] = "no-store"
    return response


async def _in_turn(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    following = sync_to_async(lambda: next(chunks, None))
    while (chunk := await following()) is not None:
        yield chunk


def inert(cell: str) -> str:
    """For CSV: a spreadsheet would run a cell that begins like a formula; an apostrophe makes it text."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def zip_chunks(folder: Path, files: Iterable[Path]) -> Iterator[bytes]:
    """A zip of files below `folder`, stored: weights do not compress."""
    return zip_entries(ZipEntry(path.relative_to(folder).as_posix(), read_chunks(path), is_text=False) for path in files)


class ZipEntry(NamedTuple):
    """A file of a zip that is made while it is sent. is_text: worth compressing."""

    name: str
    chunks: Iterable[bytes]
    is_text: bool = True


def zip_entries(entries: Iterable[ZipEntry]) -> Iterator[bytes]:
    """A zip of these, each made when its turn comes."""
    sink = Sink()
    with zipfile.ZipFile(cast(IO[bytes], sink), "w", zipfile.ZIP_STORED) as archive:
        for name, chunks, is_text in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            with archive.open(info, "w", force_zip64=True) as entry:
                for chunk in chunks:
                    entry.write(chunk)
                    yield sink.take()
    yield sink.take()


class Sink:
    """A file that cannot seek: what a writer wrote, until somebody takes it."""

    closed = False

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self._position = 0

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """What was written can still be taken."""

    def flush(self) -> None:
        """Nothing lies elsewhere."""

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken
