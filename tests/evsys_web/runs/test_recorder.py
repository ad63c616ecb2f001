"""The recorder driven by hand, as a loop drives it: what is written, when, and what ends it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.utils.timezone import now
from pytest_django.fixtures import Settings

from evsys_web.runs import metrics, work_recorder
from evsys_web.runs.models import EventKind, Status, Stop, TrainingRun
from evsys_web.runs.recorder import RunRecorder
from recipes.errors import DataError
from recipes.types import Checkpoint, LoopState, RunResult, StopRequest
from tests.evsys_web.runs.conftest import MakeRun

pytestmark = pytest.mark.django_db(transaction=True)


def begin(run: TrainingRun, *, start_step: int = 0, num_steps: int = 1000) -> LoopState:
    return LoopState(str(run.pk), num_steps, run.output_dir, start_step=start_step, step=start_step)


def do_step(recording: RunRecorder, state: LoopState) -> None:
    state.step += 1
    recording.on_step_end(state, state.step, None, {"train/mean_nll": 1 / state.step})


def eventually(condition: Callable[[], object], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def steps_of(run: TrainingRun) -> list[int]:
    return [row.step for row in metrics.rows(run)]


def result(run: TrainingRun, status: str, error: str | None = None) -> RunResult:
    return RunResult(str(run.pk), status, error=error)  # type: ignore[arg-type]


def test_every_step_is_written_once_and_the_run_completes(held_run: TrainingRun) -> None:
    with RunRecorder(held_run) as recording:
        state = begin(held_run, num_steps=2500)
        recording.on_train_start(state)
        assert TrainingRun.objects.get().status == Status.RUNNING
        for _ in range(2500):
            do_step(recording, state)
        recording.on_eval(state, 2500, "validation", {"eval/validation_nll": 0.5})
        recording.on_event(state, "warning", "Slow.")
        recording.on_train_end(state, result(held_run, "completed"))
    held_run.refresh_from_db()
    assert (held_run.status, held_run.step, held_run.num_steps) == (Status.COMPLETED, 2500, 2500)
    assert steps_of(held_run) == [*range(1, 2501), 2500]
    assert [row.seq for row in metrics.rows(held_run)] == list(range(1, 2502)) and held_run.last_seq == 2502
    assert held_run.events.get().message == "Slow." and held_run.metric_rows.count() == 0
    assert held_run.lease_owner == ""


def test_a_checkpoint_is_never_ahead_of_its_points(held_run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_recorder, "COMMIT_SECONDS", 30.0)
    monkeypatch.setattr(work_recorder, "REST", 1e9)
    with RunRecorder(held_run) as recording:
        state = begin(held_run)
        recording.on_train_start(state)
        for _ in range(7):
            do_step(recording, state)
        recording.on_checkpoint(state, Checkpoint("7", 7, "checkpoints/7/state", "checkpoints/7/weights", metrics={"a/b": 1.0}))
        assert steps_of(held_run) == list(range(1, 8))
        saved = held_run.checkpoints.get()
        assert (saved.step, saved.seq, saved.state_uri, saved.metrics) == (7, 8, "checkpoints/7/state", {"a/b": 1.0})
        recording.result = result(held_run, "completed")


def test_a_stop_reaches_a_loop_that_is_in_the_middle_of_a_long_step(held_run: TrainingRun) -> None:
    with RunRecorder(held_run) as recording:
        state = begin(held_run)
        recording.on_train_start(state)
        do_step(recording, state)
        TrainingRun.objects.get().request_stop()
        asked = time.monotonic()
        assert state.stop_event.wait(60)
        assert time.monotonic() - asked < 30 and state.stop_requested is StopRequest.AFTER_STEP
        time.sleep(0.6)
        assert state.stop_requested is StopRequest.AFTER_STEP, "one request is handed on once"
        TrainingRun.objects.get().request_stop()
        assert eventually(lambda: state.stop_requested is StopRequest.NOW)
        recording.result = result(held_run, "cancelled")
    held_run.refresh_from_db()
    assert held_run.status == Status.CANCELLED


def test_a_stop_asked_before_training_begins_is_not_forgotten(held_run: TrainingRun) -> None:
    with RunRecorder(held_run) as recording:
        TrainingRun.objects.get().request_stop()
        assert eventually(lambda: recording.standing.stop == Stop.AFTER_STEP)
        state = begin(held_run)
        recording.on_train_start(state)
        assert state.stop_requested is StopRequest.AFTER_STEP
        recording.result = result(held_run, "cancelled")


def test_a_long_step_does_not_lose_the_lease(held_run: TrainingRun, settings: Settings) -> None:
    settings.RUN_LEASE_SECONDS = 9  # renewed after a sixth of it
    with RunRecorder(held_run) as recording:
        recording.on_train_start(begin(held_run))
        at_first = now() + timedelta(seconds=9)
        TrainingRun.objects.update(lease_until=at_first)

        def is_renewed_twice() -> bool:
            assert not TrainingRun.objects.lost().exists()
            return TrainingRun.objects.filter(lease_until__gt=at_first + timedelta(seconds=2.5)).exists()

        assert eventually(is_renewed_twice)
        recording.result = result(held_run, "completed")


@pytest.mark.fault("A worker comes back whose run was given to another", "It stops at once and writes nothing more.")
def test_a_worker_that_lost_its_run_stops_at_once_and_writes_nothing_more(held_run: TrainingRun) -> None:
    with RunRecorder(held_run) as recording:
        state = begin(held_run)
        recording.on_train_start(state)
        do_step(recording, state)
        recording.flush()
        rival = TrainingRun.objects.get()
        TrainingRun.objects.update(lease_until=now() - timedelta(seconds=1))
        assert rival.declare_lost("gone") and rival.queue() and rival.start("other")
        assert eventually(lambda: state.stop_requested is StopRequest.NOW)
        do_step(recording, state)
        recording.on_checkpoint(state, Checkpoint("2", 2, "x", None))
        recording.result = result(held_run, "cancelled")
    rival.refresh_from_db()
    assert (rival.status, rival.step) == (Status.STARTING, 1)
    assert steps_of(held_run) == [1] and not held_run.checkpoints.exists()


def test_a_resumed_run_forgets_what_lies_beyond_its_checkpoint_and_says_so(make_run: MakeRun) -> None:
    run = make_run()
    run.start("one")
    with RunRecorder(run) as recording:
        state = begin(run)
        recording.on_train_start(state)
        for _ in range(8):
            do_step(recording, state)
        recording.on_checkpoint(state, Checkpoint("8", 8, "x", None))
        recording.result = result(run, "failed", "Out of memory.")
    run.refresh_from_db()
    assert (run.status, run.error) == (Status.FAILED, "Out of memory.")
    run.queue()
    run.start("two")
    with RunRecorder(run) as recording:
        state = begin(run, start_step=5)
        recording.on_train_start(state)
        assert TrainingRun.objects.get().step == 5
        for _ in range(5):
            do_step(recording, state)
        recording.result = result(run, "completed")
    assert steps_of(run) == list(range(1, 11))
    rewind = run.events.get(kind=EventKind.REWIND)
    assert rewind.step == 5 and rewind.seq == 10 and not run.checkpoints.exists()


def test_steps_that_a_killed_worker_had_no_time_to_write_come_from_its_metrics_file(make_run: MakeRun) -> None:
    run = make_run()
    run.start("one")
    run.run_begun(step=0, num_steps=10)
    run.renew(step=3, num_seqs=3)
    metrics.write(run, [(step, metrics.Point(step, now(), {"train/mean_nll": 1.0})) for step in (1, 2, 3)])
    run.crash("gone")
    run.output_dir.mkdir(parents=True)
    rows = [{"step": step, "at": now().isoformat(), "metrics": {"train/mean_nll": step / 2}} for step in range(1, 8)]
    (run.output_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.queue()
    run.start("two")
    with RunRecorder(run) as recording:
        state = begin(run, start_step=5)
        recording.on_train_start(state)
        do_step(recording, state)
        recording.result = result(run, "completed")
    curve = metrics.series(run, ["train/mean_nll"])["train/mean_nll"]
    assert curve.x.tolist() == [1, 2, 3, 4, 5, 6] and curve.y_last.tolist()[:5] == [1, 1, 1, 2, 2.5]


def test_a_foreseen_error_ends_the_run_with_its_sentence(held_run: TrainingRun) -> None:
    with RunRecorder(held_run):
        raise DataError("Line 3 has no assistant turn.")
    held_run.refresh_from_db()
    assert (held_run.status, held_run.error_type) == (Status.FAILED, "DataError")
    assert held_run.error == "Line 3 has no assistant turn." and held_run.error_detail == ""


def test_an_unforeseen_error_crashes_the_run_and_keeps_the_traceback_apart(held_run: TrainingRun) -> None:
    with pytest.raises(ZeroDivisionError), RunRecorder(held_run):
        raise ZeroDivisionError("secret detail")
    held_run.refresh_from_db()
    assert (held_run.status, held_run.error_type) == (Status.CRASHED, "ZeroDivisionError")
    assert "secret detail" not in held_run.error and "secret detail" in held_run.error_detail


def test_a_worker_that_shuts_down_returns_its_run_to_the_queue(held_run: TrainingRun) -> None:
    with RunRecorder(held_run) as recording:
        state = begin(held_run)
        recording.on_train_start(state)
        TrainingRun.objects.get().ask_back()
        assert state.stop_event.wait(60)
        recording.result = result(held_run, "cancelled")
    held_run.refresh_from_db()
    assert held_run.status == Status.QUEUED and not held_run.lease_owner


def test_a_run_that_its_own_callback_ended_is_completed(held_run: TrainingRun) -> None:
    with RunRecorder(held_run) as recording:
        recording.result = result(held_run, "cancelled")
    held_run.refresh_from_db()
    assert held_run.status == Status.COMPLETED


def test_training_that_ends_without_a_result_is_a_crash(held_run: TrainingRun) -> None:
    with RunRecorder(held_run):
        pass
    held_run.refresh_from_db()
    assert held_run.status == Status.CRASHED


@pytest.mark.fault("The database refuses for a moment", "No point is lost.")
def test_a_database_that_is_away_for_a_moment_costs_no_point(held_run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = threading.Event()
    renew = TrainingRun.renew

    def refuse(self: TrainingRun, **values: object) -> object:
        if outage.is_set():
            raise OperationalError("database is locked")
        return renew(self, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingRun, "renew", refuse)
    with RunRecorder(held_run) as recording:
        state = begin(held_run)
        recording.on_train_start(state)
        outage.set()
        for _ in range(5):
            do_step(recording, state)
        time.sleep(0.3)
        outage.clear()
        do_step(recording, state)
        recording.result = result(held_run, "completed")
    assert steps_of(held_run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.fault(
    "The database refuses while points are folded, or while a run writes how it ended", "Both are done when it is back."
)
def test_what_is_written_stays_written_once_when_folding_and_ending_are_refused(
    held_run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold, refusals = metrics.fold, ["while folding", "at the end", "at the end again"]

    def refuse(run: TrainingRun, *, keep: int = 0) -> int:
        if refusals and bool(keep) == (refusals[0] == "while folding"):
            raise OperationalError(refusals.pop(0))
        return fold(run, keep=keep)

    monkeypatch.setattr(metrics, "fold", refuse)
    monkeypatch.setattr(metrics, "FOLD_ROWS", 2)
    with RunRecorder(held_run) as recording:
        state = begin(held_run)
        recording.on_train_start(state)
        for _ in range(3):
            do_step(recording, state)
        recording.flush()
        assert eventually(lambda: len(refusals) == 2)
        monkeypatch.setattr(metrics, "FOLD_ROWS", 1000)
        recording.result = result(held_run, "completed")
    held_run.refresh_from_db()
    assert held_run.status == Status.COMPLETED and steps_of(held_run) == [1, 2, 3] and not refusals


def test_a_recorder_that_breaks_stops_the_run_and_says_so(held_run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object) -> None:
        raise ValueError("no such thing")

    with RunRecorder(held_run) as recording:
        state = begin(held_run)
        recording.on_train_start(state)
        monkeypatch.setattr(metrics, "write", breaks)
        do_step(recording, state)
        assert eventually(lambda: state.stop_requested is StopRequest.NOW)
        recording.result = result(held_run, "cancelled")
    held_run.refresh_from_db()
    assert (held_run.status, held_run.error_type) == (Status.CRASHED, "ValueError")


def test_callbacks_may_be_called_from_inside_an_event_loop(held_run: TrainingRun) -> None:
    async def train(recording: RunRecorder) -> None:
        state = begin(held_run)
        recording.on_train_start(state)
        do_step(recording, state)
        recording.on_checkpoint(state, Checkpoint("1", 1, "x", None))

    with RunRecorder(held_run) as recording:
        asyncio.run(train(recording))
        recording.result = result(held_run, "completed")
    assert steps_of(held_run) == [1]
