"""Row formats."""

from __future__ import annotations

import json

from recipes.types import Row


def canonical_line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
