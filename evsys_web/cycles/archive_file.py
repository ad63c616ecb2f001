"""Reads a zip that somebody brought, believing nothing it says of itself: only places that we name are read, never more than
was announced, and nothing is written but under names of our own."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from django.conf import settings
from pydantic import ValidationError

from evsys_web.cycles.archive import MANIFEST, Archive
from recipes.config import sentences
from recipes.errors import DataError

MAX_ENTRIES = 5_000
MAX_BYTES = 50 * 2**30
MAX_MANIFEST_BYTES = 20 * 2**20
MAX_RATIO, RATIO_MATTERS_FROM = 300, 10 * 2**20
"""JSONL shrinks to a twentieth; what grows three hundredfold was made to."""
CHUNK_BYTES = 2**20


class ArchiveFile:
    """An open archive and a folder for what is taken out of it. Use `opened`."""

    def __init__(self, archive: zipfile.ZipFile, folder: Path) -> None:
        self._archive = archive
        self._folder = folder
        self._entries = {info.filename: info for info in archive.infolist()}
        _refuse_unsound(archive)
        try:
            self.manifest = Archive.model_validate_json(self.text(MANIFEST, most=MAX_MANIFEST_BYTES))
        except ValidationError as error:
            first = sentences(error, (MANIFEST,))[0]
            raise DataError(f"This is no cycle that was exported here: {first}.") from None

    def has(self, name: str) -> bool:
        return name in self._entries

    def text(self, name: str, *, most: int) -> bytes:
        """Raises DataError for what is missing, damaged or larger than `most`."""
        info = self._info(name)
        if info.file_size > most:
            raise DataError(f"{name} is larger than {most // 2**20} MiB.")
        return b"".join(self._chunks(info))

    def take(self, name: str, target: Path | None = None) -> Path:
        """The entry as a file, by default under a name of ours. Raises DataError."""
        info = self._info(name)
        target = target or self._folder / f"{len(list(self._folder.iterdir()))}.part"
        with target.open("wb") as file:
            for chunk in self._chunks(info):
                file.write(chunk)
        return target

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._entries:
            raise DataError(f"The zip lacks {name}. Export the cycle again.")
        return self._entries[name]

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """Never more than was announced, whatever the stream goes on to give."""
        num_bytes = 0
        try:
            with self._archive.open(info) as entry:
                while chunk := entry.read(CHUNK_BYTES):
                    num_bytes += len(chunk)
                    if num_bytes > info.file_size:
                        raise DataError(f"{info.filename} is longer than the zip says.")
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{info.filename} in the zip is damaged ({error}). Export the cycle again.") from None


@contextmanager
def opened(file: Path | IO[bytes]) -> Iterator[ArchiveFile]:
    """Raises DataError for what is no sound archive of a cycle."""
    with tempfile.TemporaryDirectory(dir=settings.FILE_UPLOAD_TEMP_DIR) as folder:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise DataError(f"This is no zip file that can be read ({error}). Choose the file that Export gave.") from None
        with archive:
            yield ArchiveFile(archive, Path(folder))


def _refuse_unsound(archive: zipfile.ZipFile) -> None:
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise DataError(f"The zip holds {len(infos):,} files; a cycle has at most {MAX_ENTRIES:,}.")
    if len({info.filename for info in infos}) < len(infos):
        raise DataError("The zip holds a file twice under one name.")
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise DataError(f"The zip unpacks to more than {MAX_BYTES // 2**30} GiB.")
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        if info.filename.startswith("/") or ".." in parts or ":" in parts[0]:
            raise DataError(f"The zip holds a file outside its own folder: {info.filename[:100]!r}.")
        if info.flag_bits & 0x1:
            raise DataError("The zip is encrypted. Export the cycle without a password.")
        if info.file_size > RATIO_MATTERS_FROM and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise DataError(
                f"{info.filename[:100]} would unpack to {info.file_size // max(info.compress_size, 1):,} times its size."
            )
