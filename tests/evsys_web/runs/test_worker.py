"""Real workers in processes of their own, killed and stopped in the middle of real (if pretended) training."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.queue.actions import move
from evsys_web.runs import metrics
from evsys_web.runs.actions import launch_run, resume_run, stop_run
from evsys_web.runs.models import EventKind, Status, TrainingRun
from evsys_web.runs.status import Priority
from recipes.config import RunConfig
from tests.evsys_web.runs.conftest import mock_config
from tests.evsys_web.workers import StartWorker, kill, send_hint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

Launch = Callable[..., TrainingRun]


@pytest.fixture
def launch(alice: User, project: Project, version: DatasetVersion) -> Launch:
    def make(**params: object) -> TrainingRun:
        config = RunConfig.model_validate(mock_config(**params))
        return launch_run(user=alice, project=project, config=config, dataset_version=version)

    return make


def send(run: TrainingRun, *, times: int = 1) -> None:
    for _ in range(times):
        send_hint(run)


def wait_until(run: TrainingRun, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        run.refresh_from_db()
        if condition():
            return
        assert time.monotonic() < deadline, f"no {what} after {seconds} s: {run.status}, step {run.step}, {run.error}"
        time.sleep(0.02)


def has_completed(run: TrainingRun) -> bool:
    return run.status == Status.COMPLETED


def steps_of(run: TrainingRun) -> list[int]:
    return [row.step for row in metrics.rows(run)]


def test_a_killed_worker_costs_no_point_and_doubles_none(start_worker: StartWorker, launch: Launch, alice: User) -> None:
    run = launch(max_steps=160, save_every=25, step_seconds=0.02)
    worker = start_worker()
    send(run)
    wait_until(run, lambda: run.step >= 60, "step 60")
    kill(worker)
    start_worker()
    wait_until(run, lambda: run.status == Status.CRASHED, "crash")
    assert run.error_type == "WorkerLost" and "goes on from step" in run.error
    saved = run.checkpoints.latest("step").step
    resume_run(user=alice, run=run)
    send(run)
    wait_until(run, lambda: run.has_ended, "end")
    assert (run.status, run.step, run.attempt) == (Status.COMPLETED, 160, 2), run.error
    assert steps_of(run) == list(range(1, 161))
    assert run.events.get(kind=EventKind.REWIND).step == saved >= 50
    assert [each.seq for each in metrics.rows(run)] == sorted({each.seq for each in metrics.rows(run)})


def test_runs_wait_for_each_other_stop_within_a_step_and_survive_a_restart(
    start_worker: StartWorker, launch: Launch, alice: User
) -> None:
    first = launch(max_steps=100_000, step_seconds=0.3)
    second = launch(max_steps=80, step_seconds=0.05)
    worker = start_worker()
    send(first, times=3)
    send(second)
    wait_until(first, lambda: first.step >= 2, "step 2")
    second.refresh_from_db()
    assert second.status == Status.QUEUED
    asked, step = time.monotonic(), first.step
    stop_run(user=alice, run=first)
    wait_until(first, lambda: first.has_ended, "end")
    assert time.monotonic() - asked < 30
    assert first.status == Status.CANCELLED and first.attempt == 1 and first.step - step <= 2
    assert first.checkpoints.latest("step").step == first.step

    wait_until(second, lambda: second.step >= 10, "step 10")
    worker.send_signal(signal.SIGTERM)
    wait_until(second, lambda: second.status == Status.QUEUED, "return to the queue")
    assert worker.wait(90) == 0
    returned = second.step
    assert second.checkpoints.latest("step").step == returned < 80
    start_worker()  # nobody sends a message again: the worker finds the run that waits
    wait_until(second, lambda: second.has_ended, "end")
    assert (second.status, second.attempt) == (Status.COMPLETED, 2), second.error
    assert steps_of(second) == list(range(1, 81))


def test_workers_take_what_stands_first_not_what_they_were_told_of(
    start_worker: StartWorker, launch: Launch, alice: User
) -> None:
    """On this database and this broker: messages in the order of launch, rows in the order of a person."""
    busy, *rest = (launch(max_steps=number) for number in (1, 2, 3, 4))
    for run in (busy, *rest):
        send(run, times=2)
    rest[2].prioritize(Priority.HIGH)
    move(user=alice, work=rest[1], to="first")
    start_worker()
    for run in (busy, *rest):
        wait_until(run, partial(has_completed, run), "end")
    begun = TrainingRun.objects.order_by("started_at")
    assert [run.pk for run in begun] == [rest[2].pk, rest[1].pk, busy.pk, rest[0].pk]
    assert {run.attempt for run in begun} == {1}
