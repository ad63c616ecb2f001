"""Stored rows and lists of refusals as files to save."""

from __future__ import annotations

from collections.abc import Iterator

from django.core.files.base import File
from django.db.models.fields.files import FieldFile
from django.http import StreamingHttpResponse

from evsys_web.attachments import CHUNK_BYTES, attachment
from evsys_web.datasets.models import DatasetVersion, StagedUpload
from evsys_web.datasets.rowfile import opened


def version_download(version: DatasetVersion) -> StreamingHttpResponse:
    """The stored JSONL, byte for byte, the rows of all splits."""
    name = f"{version.dataset.name}-{version.number}.jsonl"
    response = attachment(_stored_chunks(version.file), name, content_type="application/jsonl")
    response["Content-Length"] = str(version.num_bytes)
    return response


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
