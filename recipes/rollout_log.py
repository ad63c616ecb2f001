"""rollouts.jsonl of a run directory: what the model said at each step, and what it earned.

A line per step, in order of steps: {"step", "num_groups", "num_rollouts", "groups": [{"task_id", "rollouts": [{"attempt",
"reward", "advantage", "is_correct", "stop_reason", "num_tokens", "metrics", "messages"}]}]}. Where nobody rewards, reward and
advantage are null; where a teacher read something in place of the question, that is "demonstration". num_groups and num_rollouts
are those of the step; of them whole groups are written, from the first, as long as the step's own limit and a line's size allow.
The order of tasks is drawn, so the first groups are a fair sample. Past MAX_FILE_BYTES only every SPARSE_EVERY-th step is
written, and past twice that none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from recipes.protocols import Callback
from recipes.stores import metrics_to_json
from recipes.types import LoopState, RunResult, Trajectory

ROLLOUTS_FILE = "rollouts.jsonl"
MAX_TEXT = 8_000
"""Characters of one message; a longer one says how many were cut."""
MAX_LINE_BYTES = 1_000_000
MAX_FILE_BYTES = 256_000_000
SPARSE_EVERY = 10


class RolloutsFile(Callback):
    """Writes at most `most` rollouts of each step; 0 writes no file."""

    def __init__(self, most: int) -> None:
        self._most = most

    def on_train_start(self, state: LoopState) -> None:
        """What lies beyond the step that a run goes on from is void."""
        path = state.output_dir / ROLLOUTS_FILE
        if not path.exists():
            return
        with path.open("rb+") as file:
            kept = _last_until(file, state.start_step)
            file.truncate(kept.end if kept else 0)

    def on_rollout(self, state: LoopState, step: int, rollouts: Sequence[Trajectory]) -> None:
        path = state.output_dir / ROLLOUTS_FILE
        written = path.stat().st_size if path.exists() else 0
        if not self._most or written > 2 * MAX_FILE_BYTES or (written > MAX_FILE_BYTES and step % SPARSE_EVERY):
            return
        with path.open("ab") as file:
            file.write(_line(step, rollouts, self._most))

    def on_train_end(self, state: LoopState, result: RunResult) -> None:
        """Nothing is open between steps."""


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A line of the file, and the steps that stand before and after it; None at the ends."""

    step: int
    num_groups: int
    num_rollouts: int
    groups: list[dict[str, Any]]
    previous: int | None = None
    following: int | None = None


def read_step(path: Path, step: int | None = None) -> LoggedStep | None:
    """The rollouts of that step, or of the last one before it that has some, or of the first; None asks for the newest. None when
    the file holds no step. Finds its place by halves, so that the file may be large."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        found = _last_until(file, step) or _line_from(file, 0)
        if found is None:
            return None
        before = _last_until(file, found.step - 1)
        after = _line_from(file, found.end)
        file.seek(found.start)
        row = json.loads(file.read(found.end - found.start))
    return LoggedStep(
        row["step"],
        row["num_groups"],
        row["num_rollouts"],
        row["groups"],
        before.step if before else None,
        after.step if after else None,
    )


class _Place(NamedTuple):
    """A whole line of the file: bytes [start, end)."""

    step: int
    start: int
    end: int


def _last_until(file: BinaryIO, step: int | None) -> _Place | None:
    """The last line whose step is at most `step`; None takes the last of all."""
    low, high = 0, file.seek(0, os.SEEK_END)
    best = None
    while low < high:
        middle = (low + high) // 2
        place = _line_from(file, _line_start(file, middle, low))
        if place is None or (step is not None and place.step > step):
            high = middle
        else:
            best, low = place, place.end
    return best


def _line_start(file: BinaryIO, position: int, low: int) -> int:
    """Where the first line begins that begins at or after `position`; `low` is known to be one."""
    if position <= low:
        return low
    file.seek(position - 1)
    file.readline()
    return file.tell()


def _line_from(file: BinaryIO, start: int) -> _Place | None:
    """The line that begins there; None at the end, and for a last line that a crash tore or that is being written."""
    file.seek(start)
    line = file.readline()
    if not line.endswith(b"\n"):
        return None
    head = line[:40].partition(b",")[0]  # {"step": 7, …
    return _Place(int(head.partition(b":")[2]), start, start + len(line))


def _line(step: int, rollouts: Sequence[Trajectory], most: int) -> bytes:
    groups = [list(members) for _, members in groupby(rollouts, key=lambda rollout: rollout.group)]
    written: list[str] = []
    num_written = num_bytes = 0
    for group in groups:
        text = json.dumps({"task_id": group[0].task_id, "rollouts": [_as_json(each) for each in group]}, allow_nan=False)
        num_written += len(group)
        num_bytes += len(text)
        if written and (num_written > most or num_bytes > MAX_LINE_BYTES):
            break
        written.append(text)
    head = f'{{"step": {step}, "num_groups": {len(groups)}, "num_rollouts": {len(rollouts)}, "groups": ['
    return f"{head}{', '.join(written)}]}}\n".encode()


def _as_json(rollout: Trajectory) -> dict[str, Any]:
    shown = {"demonstration": _cut(rollout.demonstration)} if rollout.demonstration else {}
    return shown | {
        "attempt": rollout.attempt,
        "reward": rollout.reward if rollout.is_rewarded else None,
        "advantage": rollout.advantage if rollout.is_rewarded else None,
        "is_correct": rollout.is_correct,
        "stop_reason": rollout.stop_reason,
        "num_tokens": rollout.num_tokens,
        "metrics": metrics_to_json(rollout.metrics),
        "messages": [_cut(message) for message in rollout.messages],
    }


def _cut(value: Any) -> Any:
    """The same with long texts cut, and without what JSON cannot hold."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… ({len(value) - MAX_TEXT:,} more characters)"
    if isinstance(value, Mapping):
        return {str(key): _cut(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_cut(item) for item in value]
    return value if value is None or isinstance(value, bool | int) else str(value)
