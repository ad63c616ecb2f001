"""Files of rows, good and bad, and a stored version of three of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import DatasetVersion

WriteRows = Callable[..., Path]


def chat(question: str, reply: str = "4", **rest: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}], **rest}


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    def write(*rows: Any, filename: str = "rows.jsonl") -> Path:
        path = tmp_path / filename
        path.write_bytes(jsonl(*rows))
        return path

    return write


@pytest.fixture
def version(alice: User, project: Project, write_rows: WriteRows) -> DatasetVersion:
    """sums@1: three chats."""
    path = write_rows(chat("1 + 1?", "2"), chat("2 + 2?", "4"), chat("3 + 3?", "<script>alert(6)</script>"))
    return import_dataset(user=alice, project=project, name="sums", path=path, filename="sums.jsonl").version
