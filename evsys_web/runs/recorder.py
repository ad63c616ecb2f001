"""Writes down what work reports, from inside the worker that holds its lease, and brings a stop back to it.

One thread owns the database: the working thread only appends to a list (it may be inside an event loop, where Django refuses
queries, and a write that waits for its turn must not hold up a step). That thread commits points, step and renewed lease in one
transaction, resting after each for REST times what it took, between REST_SECONDS and COMMIT_SECONDS: at once for steps that are
slow, and the less often the busier the database is; while a step is long it renews the lease and looks for a stop. Steps that are
faster than it rests need not wake it, which costs nearly as much as the rest of the call does. If the lease is gone the
run is somebody else's: training is told to stop at once, and nothing more is written.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, transaction

from evsys_web import logs
from evsys_web.runs import metrics
from evsys_web.runs.chunks import plain
from evsys_web.runs.metrics import Point
from evsys_web.runs.models import Checkpoint, EventKind, RunEvent, Standing, Stop, TrainingRun, storable
from evsys_web.runs.work import Work
from evsys_web.sse import release_connections
from recipes import types
from recipes.callbacks import METRICS_FILE, read_metrics
from recipes.checkpoints import Manifest
from recipes.config import BaseAlgorithmConfig
from recipes.errors import RecipeError
from recipes.protocols import Callback
from recipes.types import LoopState, Metrics, RunResult, StopRequest, TrainingBatch

logger = logging.getLogger(__name__)

COMMIT_SECONDS = 0.1
REST_SECONDS = 0.025
REST = 9.0
"""A tenth of the time is spent committing at most: it costs the training thread the interpreter's lock."""
WATCH_SECONDS = 0.25
MAX_WAITING = 20_000
"""So many items wait for the database at most; then training waits too."""
FLUSH_SECONDS = 60.0

FULL_DISK = (
    "The disk of the worker is full. Free some space (`manage.py prune --dry-run` says what may go), then resume: "
    "it goes on from what was saved last."
)

Item = TypeVar("Item")


class Recorder(Generic[Item]):
    """What the recorders of all kinds of work share. `with` begins the writing thread; leaving it writes how the work ended."""

    def __init__(self, work: Work) -> None:
        self.standing = Standing(held=True)
        self._work = work
        self._subject = logs.Subject(type(work).__name__.lower(), work.pk)
        self._items: list[Item] = []
        self._num_received = 0
        self._num_committed = 0
        self._hurry = False
        self._is_idle = False
        self._closing = False
        self._broken: BaseException | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._write_in_thread, name=f"recorder-{work.pk}", daemon=True)
        self._renewed = time.monotonic()
        self._took = 0.0

    def flush(self) -> None:
        """Wait until everything reported so far is committed, or cannot be."""
        with self._changed:
            target = self._num_received
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._num_committed >= target or self.is_over, FLUSH_SECONDS)

    @property
    def is_over(self) -> bool:
        """Nothing more can be written: the work was taken away, or the database refuses for good."""
        return not self.standing.held or self._broken is not None

    def _add(self, item: Item) -> None:
        with self._lock:
            if len(self._items) >= MAX_WAITING:
                self._changed.wait_for(lambda: len(self._items) < MAX_WAITING or self.is_over, FLUSH_SECONDS)
            self._items.append(item)
            self._num_received += 1
            if self._is_idle:
                self._is_idle = False
                self._changed.notify_all()

    # what each kind of work says

    def _store(self, items: list[Item]) -> Standing:
        """Write the items and renew the lease, inside one transaction that is open already. Not held: it will be rolled back."""
        raise AssertionError(f"{type(self).__name__} stores nothing")

    def _obey(self) -> None:
        """Hand what was asked on to the work; called after each commit, and when nothing can be written any more."""

    def _tidy(self) -> None:
        """After each commit, and outside of it."""

    def _settle(self) -> None:
        """Before the end is written."""

    def _write_end(self) -> None:
        """The work went through without an error."""
        raise AssertionError(f"{type(self).__name__} does not say how work ends")

    # what the writing thread does

    def _write_in_thread(self) -> None:
        with logs.of(self._subject):
            self._keep_writing()

    def _keep_writing(self) -> None:
        try:
            while self._wait_for_work():
                self._write()
            deadline = time.monotonic() + settings.RUN_LEASE_SECONDS
            while self._num_received > self._num_committed and not self.is_over and time.monotonic() < deadline:
                self._write()
        except Exception as error:  # noqa: BLE001 - the edge of a thread: the work must learn of it, whatever it is
            logger.exception("%s cannot be recorded", self._name)
            self._broken = error
            self._obey()
            with self._changed:
                self._changed.notify_all()
        finally:
            connections.close_all()

    def _wait_for_work(self) -> bool:
        """Rest, then wait for something to write, at most WATCH_SECONDS; False when it is time to end."""
        with self._changed:
            spare = min(COMMIT_SECONDS, max(REST_SECONDS, REST * self._took)) - (time.monotonic() - self._renewed)
            if spare > 0:
                self._changed.wait_for(lambda: self._hurry or self._closing, spare)
            self._is_idle = self._num_received == self._num_committed
            self._changed.wait_for(lambda: self._num_received > self._num_committed or self._closing, WATCH_SECONDS)
            self._is_idle = False
            return not self._closing and not self.is_over

    def _write(self) -> None:
        """One transaction with all that waits, or a look at what is asked when nothing does."""
        with self._changed:
            items, target = self._items, self._num_received
            self._items, self._hurry = [], False
        try:
            self.standing = self._commit(items)
        except (OperationalError, InterfaceError):
            # The database may come back before the lease ends; the work goes on meanwhile.
            logger.warning("%s: the database refused %s items; trying again", self._name, len(items), exc_info=True)
            connections.close_all()
            with self._changed:
                self._items = items + self._items
            time.sleep(COMMIT_SECONDS)
            return
        with self._changed:
            self._num_committed = target
            self._changed.notify_all()
        self._obey()
        try:
            if self.standing.held:
                self._tidy()
        except (OperationalError, InterfaceError):  # after the next commit, then; these items are written
            logger.warning("%s: the database refused to tidy up", self._name, exc_info=True)
            connections.close_all()

    def _commit(self, items: list[Item]) -> Standing:
        if not items and time.monotonic() - self._renewed < settings.RUN_LEASE_SECONDS / 6:
            return self._work.look()
        began = time.monotonic()
        with transaction.atomic():
            standing = self._store(items)
            if not standing.held:
                transaction.set_rollback(True)
                return standing
        self._renewed = time.monotonic()
        self._took = self._renewed - began
        return standing

    # the ends of the block

    def __enter__(self) -> Self:
        logs.begin(self._subject)
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Writes the end. A RecipeError is one of the foreseen ends; everything else goes on to the caller."""
        try:
            return self._leave(error)
        finally:
            logs.end(self._subject)

    def _leave(self, error: BaseException | None) -> bool:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if not self.standing.held:
            logger.warning("%s was taken from this worker; nothing more is written", self._name)
            return isinstance(error, RecipeError)
        while True:
            release_connections()  # hours old: the database may have been started anew since
            try:
                return self._end(error or self._broken)
            except (OperationalError, InterfaceError):
                if time.monotonic() - self._renewed > settings.RUN_LEASE_SECONDS:
                    raise
                logger.warning("%s: the database refused how it ended; trying again", self._name, exc_info=True)
                time.sleep(COMMIT_SECONDS)

    def _end(self, error: BaseException | None) -> bool:
        """Write how it ended. May be done again: each change is conditional."""
        work = self._work
        self._settle()
        if error is None:
            work.refresh_from_db(fields=["stop_requested", "hand_back"])
            self._write_end()
        elif isinstance(error, RecipeError):
            work.fail(str(error), error_type=type(error).__name__)
            return True
        elif isinstance(error, KeyboardInterrupt):
            work.cancel()
        elif not isinstance(error, Exception):
            work.give_back()
        elif is_full_disk(error):
            work.fail(FULL_DISK, error_type="DiskFull")
            return True
        else:
            self._write_crash(error)
        return False

    def _write_crash(self, error: Exception) -> None:
        detail = "".join(traceback.format_exception(error))
        logger.error("%s crashed\n%s", self._name, detail)
        sentence = f"The program stopped with an error that it did not foresee ({type(error).__name__})."
        self._work.crash(sentence, error_type=type(error).__name__, detail=detail)

    @property
    def _name(self) -> str:
        return f"{type(self._work).__name__} {self._work.pk}"


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
        self._add(Reported(step, time.time(), metrics.checked(metrics_)))
        # A checkpoint must never stand for steps that are not written down.
        if state.stop_requested is not StopRequest.NONE or step in self._save_steps:
            self.flush()

    def on_eval(self, state: LoopState, step: int, name: str, metrics_: Metrics) -> None:
        self._add(Reported(step, time.time(), metrics.checked(metrics_)))

    def on_checkpoint(self, state: LoopState, checkpoint: types.Checkpoint) -> None:
        self._add(self._row_of(checkpoint))
        self.flush()

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        self._add(RunEvent(run=self._run, level=level[:10], step=state.step, message=storable(message)))

    def on_train_end(self, state: LoopState, result: RunResult) -> None:
        self.result = result

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
        standing = run.renew(step=step, num_seqs=len(rows))
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


def is_full_disk(error: Exception) -> bool:
    """Libraries that write themselves (safetensors) only quote the system's words."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (isinstance(error, OSError) and error.errno in full) or os.strerror(errno.ENOSPC) in str(error)


def as_json(values: Mapping[str, float]) -> dict[str, float | str]:
    return {key: plain(value) for key, value in metrics.checked(values).items()}
