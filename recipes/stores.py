"""Where rows are read from and artefacts written to: a folder that cannot be left, or memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recipes.errors import DataError
from recipes.jsonl import read_jsonl
from recipes.types import Metrics, Row


class LocalDataStore:
    """Files under one folder. A path that leads out of it, by `..`, an absolute path or a link, is a DataError."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()

    def read_jsonl(self, path: str) -> Iterator[Row]:
        """Rows one at a time. Raises DataError for a missing file, and with the line of a mistake."""
        for _, row in read_jsonl(self._existing(path)):
            yield row

    def write_jsonl(self, path: str, rows: Iterable[Row]) -> None:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_atomically(self._inside(path), "".join(lines))

    def read_json(self, path: str) -> Any:
        try:
            return json.loads(self._existing(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}.") from None

    def write_json(self, path: str, value: Any) -> None:
        write_atomically(self._inside(path), json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")

    def exists(self, path: str) -> bool:
        return self._inside(path).exists()

    def list(self, prefix: str = "") -> list[str]:
        """Paths of all files that begin with the prefix, sorted."""
        files = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(path for path in files if path.startswith(prefix))

    def _inside(self, path: str) -> Path:
        if "\0" in path:
            raise DataError("A path cannot hold a zero byte.")
        resolved = (self.root / path).resolve()
        if not resolved.is_relative_to(self.root):
            raise DataError(f"{path} leads out of the data folder.")
        return resolved

    def _existing(self, path: str) -> Path:
        resolved = self._inside(path)
        if not resolved.is_file():
            raise DataError(f"There is no file {path} in the data folder.")
        return resolved


class InMemoryDataStore:
    """The same in a dictionary: for tests and for rows that never touch a disk."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def read_jsonl(self, path: str) -> Iterator[Row]:
        for line in self._existing(path).splitlines():
            row: Row = json.loads(line)
            yield row

    def write_jsonl(self, path: str, rows: Iterable[Row]) -> None:
        self._texts[path] = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)

    def read_json(self, path: str) -> Any:
        return json.loads(self._existing(path))

    def write_json(self, path: str, value: Any) -> None:
        self._texts[path] = json.dumps(value, allow_nan=False)

    def exists(self, path: str) -> bool:
        return path in self._texts

    def list(self, prefix: str = "") -> list[str]:
        return sorted(path for path in self._texts if path.startswith(prefix))

    def _existing(self, path: str) -> str:
        if path not in self._texts:
            raise DataError(f"There is no file {path} in the data folder.")
        return self._texts[path]


def write_atomically(path: Path, text: str) -> None:
    """Replace the file as a whole: a reader, or a crash, sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def metrics_to_json(metrics: Metrics) -> dict[str, float | str]:
    """JSON has no NaN and no infinity: they become the strings "NaN", "Infinity" and "-Infinity"."""
    if math.isfinite(sum(metrics.values())):  # then each is, and the loop, which waits for this, goes on sooner
        return {**metrics}
    return {key: value if math.isfinite(value) else _non_finite(value) for key, value in metrics.items()}


def metrics_from_json(values: dict[str, float | str]) -> Metrics:
    """The metrics that `metrics_to_json` wrote."""
    return {key: float(value) for key, value in values.items()}


def _non_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
