"""Stored rows and lists of refusals as files to save."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from typing import Any

from django.core.files.base import File
from django.db.models.fields.files import FieldFile
from django.http import StreamingHttpResponse

from evsys_web.attachments import CHUNK_BYTES, Sink, attachment
from evsys_web.datasets.models import DatasetVersion, StagedUpload
from evsys_web.datasets.rowfile import opened
from evsys_web.datasets.splits import field_of, stretches, with_field
from recipes.parquet_rows import schema_of, table_of
from recipes.rows import RowFormat


class ExportFormat(StrEnum):
    JSONL = "jsonl"
    PARQUET = "parquet"


CONTENT_TYPES = {ExportFormat.JSONL: "application/jsonl", ExportFormat.PARQUET: "application/vnd.apache.parquet"}
GROUP_BYTES = 4 * 1024 * 1024
"""A row group is made of about so much JSON: its objects are the most that an export holds."""


def version_download(
    version: DatasetVersion, *, format: ExportFormat = ExportFormat.JSONL, split: str | None = None
) -> StreamingHttpResponse:
    """Rows of the version, or of one split. As JSONL these are the stored lines byte for byte, and in the whole of a version with
    splits each line has its split beside it; Parquet notes them too. Imported again the whole has the same content hash.
    Raises ConfigError for a split that is none, DataError when the file is gone."""
    part = version.stretch(split)
    name = f"{version.dataset.name}-{version.number}{f'-{part.name}' if part.name else ''}.{format}"
    chunks = exported(version, format, split)
    response = attachment(_begun(chunks), name, content_type=CONTENT_TYPES[format])
    if format is ExportFormat.JSONL and not part.name:
        added = sum(each["num_rows"] * len(field_of(each["name"])) for each in version.splits)
        response["Content-Length"] = str(version.num_bytes + added)
    return response


def exported(version: DatasetVersion, format: ExportFormat, split: str | None = None) -> Iterator[bytes]:
    """The bytes of such a file, as they are made."""
    part = version.stretch(split)
    lines = version.rows.chunks(part.start, part.stop)
    if format is ExportFormat.JSONL:
        return lines if split is not None or not version.splits else _split_by_split(version)
    return _parquet(lines, schema_of(RowFormat(version.format), version.splits if split is None else ()))


def _split_by_split(version: DatasetVersion) -> Iterator[bytes]:
    for part in stretches(version.splits):
        for lines in version.rows.chunks(part.start, part.stop):
            yield with_field(lines, part.name)


def _parquet(chunks: Iterator[bytes], schema: Any) -> Iterator[bytes]:
    import pyarrow.parquet

    sink = Sink()
    with pyarrow.parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for lines in _grouped(chunks):
            writer.write_table(table_of(map(json.loads, lines.splitlines()), schema))
            yield sink.take()
    yield sink.take()


def _grouped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same lines in fewer, larger stretches."""
    held, size = [], 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= GROUP_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same, with the first one made now: a file that is gone is then still an answer of its own."""
    first = next(chunks, b"")
    return chain([first], chunks)


def errors_download(staged: StagedUpload) -> StreamingHttpResponse:
    """Every refused row as CSV."""
    name = f"{staged.dataset_name}-errors.csv"
    return attachment(_stored_chunks(staged.errors_file), name, content_type="text/csv; charset=utf-8")


def _stored_chunks(file: FieldFile) -> Iterator[bytes]:
    stream = opened(file)  # before the first byte is sent, so that a file that is gone is still an answer of its own
    return _chunks_of(stream)


def _chunks_of(stream: File[bytes]) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
