"""A training run's recorder: its steps, events and checkpoints become rows, and a stop reaches its loop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from django.db import transaction

from evsys_web.runs import metrics
from evsys_web.runs.chunks import plain
from evsys_web.runs.metrics import Point
from evsys_web.runs.models import Checkpoint, EventKind, RunEvent, Standing, Stop, TrainingRun, storable
from evsys_web.runs.work_recorder import Recorder
from recipes import types
from recipes.callbacks import METRICS_FILE, read_metrics
from recipes.checkpoints import Manifest
from recipes.config import BaseAlgorithmConfig
from recipes.protocols import Callback
from recipes.types import LoopState, Metrics, RunResult, StopRequest, TrainingBatch


class Begun(NamedTuple):
    """Training begins after this step."""

    start_step: int
    num_steps: int


class Reported(NamedTuple):
    """A point as the loop reports it. at: seconds since 1970, which cost the loop a quarter of what a datetime does."""

    step: int
    at: float
    values: Mapping[str, float]


Written = Point | RunEvent | Checkpoint


class RunRecorder(Recorder[Reported | Begun | RunEvent | Checkpoint], Callback):
    """`with RunRecorder(run) as recorder: recorder.result = recipes.train(…, callbacks=[recorder])` for a run that was just
    claimed by `run.start()`. Leaving the block writes how the run ended."""

    def __init__(self, run: TrainingRun) -> None:
        super().__init__(run)
        self.result: RunResult | None = None
        self._run = run
        self._step_before = run.step
        self._state: LoopState | None = None
        self._num_unfolded = 0
        self._save_steps: set[int] = set()
        self._keys: set[str] = set()

    # what the training thread calls: no queries here

    def on_train_start(self, state: LoopState) -> None:
        self._state = state
        config = state.ctx.config.algorithm_config() if state.ctx else None
        if isinstance(config, BaseAlgorithmConfig):
            self._save_steps = config.save_steps(state.num_steps)
        self._add(Begun(state.start_step, state.num_steps))
        self._obey()
        self.flush()

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics_: Metrics) -> None:
        self._add(Reported(step, time.time(), self._checked(metrics_)))
        # A checkpoint must never stand for steps that are not written down.
        if state.stop_requested is not StopRequest.NONE or step in self._save_steps:
            self.flush()

    def on_eval(self, state: LoopState, step: int, name: str, metrics_: Metrics) -> None:
        self._add(Reported(step, time.time(), self._checked(metrics_)))

    def on_checkpoint(self, state: LoopState, checkpoint: types.Checkpoint) -> None:
        self._add(self._row_of(checkpoint))
        self.flush()

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        if self._state is None:  # what is opened before training starts may take long, and a stop ends it
            self._state = state
        self._add(RunEvent(run=self._run, level=level[:10], step=state.step, message=storable(message)))

    def on_train_end(self, state: LoopState, result: RunResult) -> None:
        self.result = result

    def _checked(self, values: Metrics) -> Metrics:
        """The values as they are now. Keys that were looked at once, and floats, are not looked at again: the loop waits."""
        if values.keys() <= self._keys and {*map(type, values.values())} == {float}:
            return {**values}
        numbers = metrics.checked(values)
        self._keys |= numbers.keys()
        return numbers

    # what the writing thread does

    def _store(self, items: list[Reported | Begun | RunEvent | Checkpoint]) -> Standing:
        run = self._run
        rows: list[Written] = []
        for item in items:
            if isinstance(item, Begun):
                rows += self._begin(*item)
            elif isinstance(item, Reported):
                rows.append(Point(item.step, datetime.fromtimestamp(item.at, UTC), item.values))
            else:
                rows.append(item)
        step = next((row.step for row in reversed(rows) if isinstance(row, Point)), None)
        standing = run.renew(step=step, num_seqs=len(rows), pushes=self._is_due)
        if standing.held:
            self._write_rows(list(enumerate(rows, standing.last_seq - len(rows) + 1)))
        return standing

    def _begin(self, start_step: int, num_steps: int) -> list[Written]:
        """Forget what lies beyond the step that a resumed run goes on from, and find what the last worker could not write before
        it died: the run's own metrics file is ahead of the database by a moment."""
        run, recorded = self._run, self._step_before
        run.run_begun(step=start_step, num_steps=num_steps)
        if run.attempt == 1:
            return []
        metrics.truncate_after(run, start_step)
        run.checkpoints.filter(step__gt=start_step).delete()
        message = f"Resumed from step {start_step}." if start_step else "Started again from the beginning."
        rewind = RunEvent(run=run, kind=EventKind.REWIND, step=start_step, message=message)
        lost = (row for row in read_metrics(run.output_dir / METRICS_FILE) if recorded < row["step"] <= start_step)
        points = (Point(row["step"], datetime.fromisoformat(row["at"]), metrics.checked(row["metrics"])) for row in lost)
        return [rewind, *points, *self._unrecorded_checkpoints(start_step)]

    def _unrecorded_checkpoints(self, start_step: int) -> list[Checkpoint]:
        """Those that the manifest has and the database not: the last worker died between the two. Whoever deletes one takes it
        out of the manifest first."""
        known = set(self._run.checkpoints.values_list("name", flat=True))
        saved = Manifest(self._run.output_dir).read()
        return [
            self._row_of(checkpoint) for checkpoint in saved if checkpoint.step <= start_step and checkpoint.name not in known
        ]

    def _row_of(self, checkpoint: types.Checkpoint) -> Checkpoint:
        return Checkpoint(
            run=self._run,
            name=checkpoint.name,
            step=checkpoint.step,
            state_uri=checkpoint.state_path or "",
            sampler_uri=checkpoint.sampler_path or "",
            metrics=as_json(checkpoint.metrics),
            expires_at=checkpoint.expires_at,
        )

    def _write_rows(self, numbered: list[tuple[int, Written]]) -> None:
        points = [(seq, item) for seq, item in numbered if isinstance(item, Point)]
        metrics.write(self._run, points)
        self._num_unfolded += len(points)
        for seq, item in numbered:
            if isinstance(item, Point):
                continue
            item.pk, item.seq = None, seq  # a number from a commit that failed may be taken by now
            if isinstance(item, Checkpoint):
                self._run.checkpoints.filter(name=item.name).delete()
            item.save(force_insert=True)

    def _tidy(self) -> None:
        if self._num_unfolded >= metrics.FOLD_ROWS:
            self._fold_if_held(keep=metrics.KEEP_ROWS)
            self._num_unfolded = 0

    def _fold_if_held(self, *, keep: int = 0) -> None:
        """Renewing locks the row, so that nobody can take the run and truncate it meanwhile."""
        with transaction.atomic():
            if self._run.renew().held:
                metrics.fold(self._run, keep=keep)

    def _obey(self) -> None:
        """Hand what was asked on to the loop; each request once."""
        state, standing = self._state, self.standing
        if self.is_over or standing.stop == Stop.NOW:
            wanted = StopRequest.NOW
        else:
            wanted = StopRequest.AFTER_STEP if standing.stop or standing.hand_back else StopRequest.NONE
        with self._changed:  # both threads come here
            if state:
                state.is_leaving = not standing.stop and (self.is_over or standing.hand_back)
            while state and wanted is not StopRequest.NONE and state.stop_requested not in (wanted, StopRequest.NOW):
                state.request_stop()

    def _settle(self) -> None:
        self._fold_if_held()

    def _write_end(self) -> None:
        run, result = self._run, self.result
        if result is None:
            run.crash("Training ended without saying how.", error_type="NoResult")
        elif result.status == "failed":
            run.fail(result.error or "Training failed without saying why.")
        elif result.status == "completed":
            run.complete()
        elif run.stop_requested:
            run.cancel()
        elif run.hand_back:
            run.give_back()
        else:  # a callback of the run's own config ended it, e.g. early stopping
            run.complete()


def as_json(values: Mapping[str, float]) -> dict[str, float | str]:
    return {key: plain(value) for key, value in metrics.checked(values).items()}
