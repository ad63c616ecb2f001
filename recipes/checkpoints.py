"""The manifest of a run's checkpoints, and the cursor that lets a run go on exactly where one of them left it.

A checkpoint counts once its row stands in checkpoints.jsonl, which is written after the weights and replaced as a whole: a
crash leaves folders that nobody mentions, never a row without weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from recipes.config import RunConfig
from recipes.errors import CheckpointError, DataError
from recipes.jsonl import canonical_line
from recipes.stores import metrics_from_json, metrics_to_json, write_atomically
from recipes.types import Checkpoint, Row

MANIFEST_FILE = "checkpoints.jsonl"
FINAL = "final"
FREE_TO_CHANGE = frozenset({"callbacks", "save_every", "save_at_fractions"})
"""Algorithm settings that do not move the curve: a run may be resumed with other values."""


class Cursor(BaseModel):
    """Where a run stood at a checkpoint. `epoch` and `batch_in_epoch` place `next_step_index` in the data; the order of the rows
    follows from the seed and the epoch alone. `rng`: state of the algorithm's generator. `algorithm`: what the algorithm itself
    wants to remember. `fingerprint`: what the run was made of (see `fingerprint_of`)."""

    model_config = ConfigDict(extra="forbid")

    next_step_index: int
    epoch: int = 0
    batch_in_epoch: int = 0
    seed: int = 0
    tokens_total: int = 0
    tokens_trained: int = 0
    rng: dict[str, Any] = {}
    algorithm: dict[str, Any] = {}
    fingerprint: dict[str, Any] = {}

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Cursor:
        """The cursor of a checkpoint. Raises CheckpointError when it has none that can be read."""
        try:
            return cls.model_validate(checkpoint.cursor)
        except ValidationError as error:
            raise CheckpointError(
                f"The checkpoint {checkpoint.name} cannot be resumed from: its cursor is unreadable."
            ) from error


class Manifest:
    """checkpoints.jsonl of a run directory, one Checkpoint per line, oldest first."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / MANIFEST_FILE

    def read(self) -> list[Checkpoint]:
        """Every row. Raises CheckpointError with the line of one that cannot be read."""
        if not self.path.exists():
            return []
        rows = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                rows.append(_from_line(line))
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(f"Line {number} of {MANIFEST_FILE} is no checkpoint: {error}.") from error
        return rows

    def append(self, checkpoint: Checkpoint) -> None:
        """Add a row, or replace the one of the same name."""
        self._write([row for row in self.read() if row.name != checkpoint.name] + [checkpoint])

    def keep_until(self, step: int) -> None:
        """Forget checkpoints beyond `step`: a run resumed from there makes its own."""
        rows = self.read()
        kept = [row for row in rows if row.step <= step]
        if len(kept) < len(rows):
            self._write(kept)

    def forget(self, name: str) -> None:
        """Take out the row of this name, before its weights are removed."""
        rows = self.read()
        kept = [row for row in rows if row.name != name]
        if len(kept) < len(rows):
            self._write(kept)

    def newest_usable(self) -> Checkpoint | None:
        """The last row whose state still exists; None when there is none to resume from."""
        return next((row for row in reversed(self.read()) if _has_state(row)), None)

    def _write(self, rows: Sequence[Checkpoint]) -> None:
        write_atomically(self.path, "".join(_to_line(row) for row in rows))


def _to_line(checkpoint: Checkpoint) -> str:
    values = asdict(checkpoint) | {"metrics": metrics_to_json(checkpoint.metrics)}
    values["expires_at"] = checkpoint.expires_at and checkpoint.expires_at.isoformat()
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"


def _from_line(line: str) -> Checkpoint:
    values = json.loads(line)
    values["metrics"] = metrics_from_json(values["metrics"])
    if at := values.get("expires_at"):
        values["expires_at"] = datetime.fromisoformat(at)
    return Checkpoint(**values)


def _has_state(checkpoint: Checkpoint) -> bool:
    uri = checkpoint.state_path
    return bool(uri) and not checkpoint.is_expired and ("://" in str(uri) or Path(str(uri)).exists())


def fingerprint_of(config: RunConfig, rows: Sequence[Row], validation_rows: Sequence[Row] | None = None) -> dict[str, Any]:
    """What a run is made of, as JSON: every setting with its default filled in, the model, and a digest of the rows.

    Raises DataError for a row that JSON cannot hold.
    """
    algorithm = config.algorithm_config().model_dump(mode="json", exclude=set(FREE_TO_CHANGE))
    return {
        "model": config.model.model_dump(mode="json") | _model_files(config.model.name),
        "algorithm": {"kind": config.algorithm.kind, "params": algorithm},
        "backend": {"kind": config.backend.kind, "params": config.backend_config().model_dump(mode="json")},
        "dataset": {"rows": len(rows), "sha256": _digest(rows)},
        "validation": {"rows": len(validation_rows or ()), "sha256": _digest(validation_rows or ())},
    }


def refuse_change(saved: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raises CheckpointError that names every difference between two fingerprints."""
    if found := differences(saved, now):
        raise CheckpointError(
            f"This run cannot go on from checkpoint {checkpoint.name} (step {checkpoint.step}), because it has changed:"
            f" {'; '.join(found)}. Change that back, or start a new run."
        )


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of a fingerprint is another value now, each in words."""
    before, after = dict(_leaves(saved)), dict(_leaves(now))
    return [
        f"{path} was {_shown(before[path])} and is now {_shown(after.get(path))}"
        for path in sorted(before)  # a setting that did not exist then has its default now
        if before[path] != after.get(path)
    ]


def _model_files(name: str) -> dict[str, Any]:
    """Sizes of the weights of a model folder: a cheap sign that it was exchanged under the same name."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return {}
    return {"files": {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}}


def _digest(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for number, row in enumerate(rows, 1):
        try:
            digest.update(canonical_line(row))
        except (TypeError, ValueError) as error:
            raise DataError(f"Row {number:,} cannot be written as JSON: {error}.", line=number) from error
    return digest.hexdigest()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
