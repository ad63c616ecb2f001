"""Who may change a run's status, and when."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils.timezone import now

from evsys_web.runs import models
from evsys_web.runs.models import ACTIVE, ENDED, Status, Stop, TrainingRun
from tests.evsys_web.runs.conftest import MakeRun


def other_view(run: TrainingRun) -> TrainingRun:
    """What another process holds of the same row."""
    return TrainingRun.objects.get(pk=run.pk)


def lose(run: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=run.pk).update(lease_until=now() - timedelta(seconds=1))


def test_of_two_workers_one_gets_the_run(run: TrainingRun) -> None:
    rival = other_view(run)
    assert run.start("one")
    assert not rival.start("two")
    assert run.status == Status.STARTING and run.attempt == 1 and run.lease_owner.startswith("one/")


def test_the_same_worker_cannot_start_a_run_twice(held_run: TrainingRun) -> None:
    assert not other_view(held_run).start("worker")


@pytest.mark.parametrize("status", [status for status in Status if status != Status.QUEUED])
def test_only_a_queued_run_is_started(make_run: MakeRun, status: Status) -> None:
    assert not make_run(status=status).start("worker")


def test_a_worker_without_the_lease_writes_nothing(held_run: TrainingRun) -> None:
    late = other_view(held_run)
    lose(held_run)
    assert other_view(held_run).declare_lost("gone")
    assert other_view(held_run).queue()
    second = other_view(held_run)
    assert second.start("other")
    assert not late.renew(step=99, num_seqs=5).held
    assert not (late.complete() or late.fail("no") or late.crash("no") or late.cancel() or late.give_back())
    second.refresh_from_db()
    assert (second.status, second.step, second.last_seq) == (Status.STARTING, 0, 0)


def test_renewing_hands_out_numbers_and_says_what_was_asked(held_run: TrainingRun) -> None:
    assert held_run.renew(num_seqs=3) == (True, 3, Stop.NONE, False)
    assert other_view(held_run).request_stop()
    assert held_run.renew(step=7, num_seqs=2) == (True, 5, Stop.AFTER_STEP, False)
    assert other_view(held_run).step == 7
    lease = other_view(held_run).lease_until
    assert held_run.renew(num_seqs=1, pushes=False).held and other_view(held_run).lease_until == lease
    assert held_run.renew().held and other_view(held_run).lease_until != lease


def test_a_stop_of_a_queued_run_cancels_it_at_once(run: TrainingRun) -> None:
    assert run.request_stop()
    assert run.status == Status.CANCELLED and run.finished_at
    assert not run.start("worker")


def test_a_second_stop_is_a_stop_at_once(held_run: TrainingRun) -> None:
    assert held_run.request_stop() and (held_run.status, held_run.stop_requested) == (Status.STOPPING, Stop.AFTER_STEP)
    assert held_run.request_stop() and held_run.stop_requested == Stop.NOW
    assert held_run.run_begun(step=0, num_steps=10) and held_run.status == Status.STOPPING
    assert held_run.cancel() and not held_run.request_stop()


def test_a_silent_run_is_declared_lost_only_after_its_lease(held_run: TrainingRun) -> None:
    assert not held_run.declare_lost("gone")
    lose(held_run)
    assert TrainingRun.objects.lost().get() == held_run
    assert held_run.declare_lost("gone") and (held_run.status, held_run.error) == (Status.CRASHED, "gone")
    assert not held_run.declare_lost("gone again")


def test_a_run_whose_worker_announced_its_end_goes_back_to_the_queue(held_run: TrainingRun) -> None:
    assert held_run.ask_back()
    lose(held_run)
    assert held_run.declare_lost("gone") and held_run.status == Status.QUEUED
    assert held_run.start("next") and not held_run.hand_back


def test_a_run_that_ended_badly_can_be_queued_again_and_forgets_why(held_run: TrainingRun) -> None:
    assert held_run.fail("The model is missing.", error_type="ConfigError")
    assert held_run.status == Status.FAILED and held_run.can_resume
    assert held_run.queue() and held_run.error == "" and held_run.finished_at is None
    assert held_run.start("worker") and held_run.attempt == 2


def test_a_completed_run_is_not_queued_again(held_run: TrainingRun) -> None:
    assert held_run.complete()
    assert not held_run.queue() and not held_run.can_resume


def test_a_waiting_run_is_announced_once_in_a_while(run: TrainingRun) -> None:
    assert run.hint(older_than=timedelta(seconds=10))
    assert not other_view(run).hint(older_than=timedelta(seconds=10))
    assert run.hint(older_than=timedelta(seconds=-1))


def test_every_status_is_active_ended_or_waiting() -> None:
    assert {*ACTIVE, *ENDED, Status.DRAFT, Status.QUEUED} == set(Status)


def test_nothing_but_the_model_writes_a_status() -> None:
    folder = Path(models.__file__).parent
    written = re.compile(r"\.status\s*=[^=]|\.update\([^)]*\bstatus=|\brun\.save\(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in folder.rglob("*.py")
        if path.name != "models.py" and "migrations" not in path.parts
        for line in path.read_text().splitlines()
        if written.search(line)
    ]
    assert found == []
