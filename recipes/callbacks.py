"""Callbacks: a dispatch that no failing callback can take down, and the ones that every run or a form may use."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar

import orjson
from pydantic import BaseModel, Field, ValidationError

from recipes.config import Settings, knob, sentences
from recipes.errors import CheckpointError, ConfigError
from recipes.protocols import Callback, LogStore
from recipes.stores import metrics_to_json, write_atomically
from recipes.types import LoopState, Metrics, RunResult, TrainingBatch, Trajectory

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class Dispatch:
    """Calls a hook of every callback, in order. One that fails is recorded once per hook, as an event on the run, and training
    goes on; how often it failed is said at the end."""

    def __init__(self, callbacks: Sequence[Callback], state: LoopState) -> None:
        self._callbacks = list(callbacks)
        self._state = state
        self._failures: Counter[tuple[int, str]] = Counter()

    def fire(self, hook: str, *arguments: Any) -> None:
        """hook(*arguments) on each callback; the state comes first where the hook takes it."""
        for position, callback in enumerate(self._callbacks):
            try:
                getattr(callback, hook)(*arguments)
            except Exception as error:  # noqa: BLE001 - somebody's callback must not end the training it watches
                self._record(position, hook, error)

    def event(self, level: str, message: str) -> None:
        """Something a person should read: level is info, warning or error."""
        self.fire("on_event", self._state, level, message)

    def rollouts(self, step: int, rollouts: Sequence[Trajectory]) -> None:
        """What was said and rewarded on the way to that step."""
        self.fire("on_rollout", self._state, step, rollouts)

    def report_failures(self) -> None:
        """One event per callback and hook that failed more than once."""
        for (position, hook), times in list(self._failures.items()):
            if times > 1:
                self.event("warning", f"{_name(self._callbacks[position])}.{hook} failed {times} times in this run.")

    def _record(self, position: int, hook: str, error: Exception) -> None:
        name = _name(self._callbacks[position])
        self._failures[position, hook] += 1
        log.warning("%s.%s failed", name, hook, exc_info=error)
        if self._failures[position, hook] == 1 and hook != "on_event":
            where = f"at step {self._state.step}"
            self.event("error", f"{name}.{hook} failed {where} and was passed over: {type(error).__name__}: {error}")


def _name(callback: Callback) -> str:
    return type(callback).__name__


class MetricsFile(Callback):
    """metrics.jsonl of the run directory: {"step", "at", "metrics"} per line. The system has a line before the call returns,
    whatever becomes of this process. NaN and infinities, which JSON lacks, are the strings "NaN", "Infinity", "-Infinity"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._unwritten = b""

    def on_train_start(self, state: LoopState) -> None:
        kept = [_line(row) for row in read_metrics(self.path) if row["step"] <= state.start_step] if state.start_step else []
        write_atomically(self.path, b"".join(kept).decode())

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        self._append(step, metrics)

    def on_eval(self, state: LoopState, step: int, name: str, metrics: Metrics) -> None:
        self._append(step, metrics)

    def on_train_end(self, state: LoopState, result: RunResult) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with file:
                self._write(file)

    def _append(self, step: int, metrics: Metrics) -> None:
        if self._file is None:
            self._file = FileIO(self.path, "ab")  # no buffer: a text file and its flush cost the loop as much again
        self._unwritten += _line({"step": step, "at": datetime.now(UTC), "metrics": metrics_to_json(metrics)})
        self._write(self._file)

    def _write(self, file: FileIO) -> None:
        while self._unwritten:  # a full disk may take half a line: the rest goes first when there is space again
            self._unwritten = self._unwritten[file.write(self._unwritten) or 0 :]


def _line(row: Mapping[str, Any]) -> bytes:
    """The loop waits for it: orjson takes a seventh of the time, but no integer beyond 64 bits and no half of a surrogate."""
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        return json.dumps(row, allow_nan=False, default=datetime.isoformat).encode() + b"\n"


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a metrics.jsonl as written; a last line that a crash tore is left out. Raises CheckpointError for any other."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError:
            if number < len(lines):
                raise CheckpointError(f"Line {number} of {path.name} is not JSON: the file was changed by hand.") from None


class ToLogStore(Callback):
    """Hands every metric row to a LogStore."""

    def __init__(self, store: LogStore) -> None:
        self.store = store

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        self.store.log_metrics(metrics, step)

    def on_eval(self, state: LoopState, step: int, name: str, metrics: Metrics) -> None:
        self.store.log_metrics(metrics, step)

    def on_train_end(self, state: LoopState, result: RunResult) -> None:
        self.store.close()


class Direction(StrEnum):
    MIN = "min"
    MAX = "max"


class EarlyStoppingConfig(Settings):
    metric: str = Field("eval/validation_nll", min_length=1, max_length=200, description="Key of the metric that is watched.")
    mode: Direction = knob(Direction.MIN, "Whether a smaller or a larger value is better.")
    patience: int = knob(3, "How many values in a row may bring no improvement.", ge=1, le=10_000)
    min_delta: float = knob(0.0, "Improvement that counts as one.", ge=0, le=1e6)


class EarlyStopping(Callback):
    """Ends the run, as completed, after `patience` values in a row that are not better than the best by more than `min_delta`.
    The first value is the baseline. NaN is never an improvement. A resumed run remembers, from metrics.jsonl."""

    Config: ClassVar[type[BaseModel]] = EarlyStoppingConfig

    def __init__(self, **params: Any) -> None:
        try:
            self.cfg = EarlyStoppingConfig(**params)
        except ValidationError as error:
            raise ConfigError("; ".join(sentences(error, ("early_stopping",)))) from None
        self._best: float | None = None
        self._stale = 0

    def on_train_start(self, state: LoopState) -> None:
        self._best, self._stale = None, 0
        if state.start_step:
            for row in read_metrics(state.output_dir / METRICS_FILE):
                if row["step"] <= state.start_step and self.cfg.metric in row["metrics"]:
                    self._watch(float(row["metrics"][self.cfg.metric]))

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        self._judge(state, metrics)

    def on_eval(self, state: LoopState, step: int, name: str, metrics: Metrics) -> None:
        self._judge(state, metrics)

    def _judge(self, state: LoopState, metrics: Metrics) -> None:
        if self.cfg.metric in metrics and self._watch(metrics[self.cfg.metric]):
            state.finish_early()

    def _watch(self, value: float) -> bool:
        """Take one value in; True when patience is used up."""
        signed = value if self.cfg.mode is Direction.MIN else -value
        if self._best is None and not math.isnan(signed):
            self._best = signed
        elif self._best is not None and signed < self._best - self.cfg.min_delta:
            self._best, self._stale = signed, 0
        else:
            self._stale += 1
        return self._stale >= self.cfg.patience
