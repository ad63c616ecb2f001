"""The audit log as a file, whole or as filtered: CSV for spreadsheets, JSON lines for programs. Made while it is sent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from evsys_web.accounts.models import AuditEntry
from evsys_web.attachments import attachment, inert

ENTRIES_PER_CHUNK = 500
COLUMNS = ("id", "at", "user", "verb", "kind", "thing_id", "thing", "project", "changes", "door", "address")


def export(entries: QuerySet[AuditEntry], format: str) -> StreamingHttpResponse:
    """format: csv or jsonl."""
    chunks, content_type = FORMATS[format]
    return attachment(chunks(entries), f"audit.{format}", content_type=content_type)


def row_of(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.pk,
        "at": entry.created_at.isoformat(),
        "user": entry.username,
        "verb": entry.verb,
        "kind": entry.kind,
        "thing_id": entry.thing_id,
        "thing": entry.thing,
        "project": entry.project_id,
        "changes": entry.changes,
        "door": entry.door,
        "address": entry.address,
    }


def _batches(entries: QuerySet[AuditEntry]) -> Iterator[list[dict[str, Any]]]:
    rows = (row_of(entry) for entry in entries.iterator(chunk_size=ENTRIES_PER_CHUNK))
    while batch := list(islice(rows, ENTRIES_PER_CHUNK)):
        yield batch


def _jsonl(entries: QuerySet[AuditEntry]) -> Iterator[bytes]:
    for rows in _batches(entries):
        yield "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def _csv(entries: QuerySet[AuditEntry]) -> Iterator[bytes]:
    yield (",".join(COLUMNS) + "\r\n").encode()
    for rows in _batches(entries):
        text = io.StringIO()
        writer = csv.writer(text)
        for row in rows:
            row["changes"] = json.dumps(row["changes"], ensure_ascii=False)
            writer.writerow([inert(cell) if isinstance(cell := row[name], str) else cell for name in COLUMNS])
        yield text.getvalue().encode()


FORMATS: dict[str, tuple[Callable[[QuerySet[AuditEntry]], Iterator[bytes]], str]] = {
    "csv": (_csv, "text/csv; charset=utf-8"),
    "jsonl": (_jsonl, "application/jsonl; charset=utf-8"),
}
