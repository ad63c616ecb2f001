"""What a sweep brings back, and what it leaves alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils.timezone import now

from evsys_web import logs
from evsys_web.runs.leases import MAX_ATTEMPTS, ask_back, sweep
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from tests.evsys_web.runs.conftest import MakeRun


@pytest.fixture
def sent() -> list[int]:
    return []


def expire(run: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=run.pk).update(lease_until=now() - timedelta(seconds=1))


def test_a_silent_run_crashes_with_a_sentence_that_says_where_it_goes_on(
    held_run: TrainingRun, sent: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    held_run.renew(step=34)
    Checkpoint.objects.create(run=held_run, name="30", step=30, state_uri="checkpoints/30/state")
    sweep("other", send=sent.append)
    held_run.refresh_from_db()
    assert held_run.status == Status.STARTING
    expire(held_run)
    with caplog.filtering(logs.SubjectFilter()):
        sweep("other", send=sent.append)
    held_run.refresh_from_db()
    assert held_run.status == Status.CRASHED and held_run.error_type == "WorkerLost"
    assert "after step 34" in held_run.error and "goes on from step 30" in held_run.error
    assert held_run.events.get().level == "error"
    assert [vars(line)["work_id"] for line in caplog.records if "its worker was lost" in line.message] == [held_run.pk]
    assert sent == []


def test_a_run_that_wants_it_is_resumed_by_itself_but_not_for_ever(make_run: MakeRun, sent: list[int]) -> None:
    run = make_run(auto_resume=True)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert run.start("worker") and run.attempt == attempt
        expire(run)
        sweep("other", send=sent.append)
        run.refresh_from_db()
    assert run.status == Status.CRASHED
    assert sent == [run.pk] * (MAX_ATTEMPTS - 1)


def test_a_stopped_run_is_never_resumed_by_itself(make_run: MakeRun, sent: list[int]) -> None:
    run = make_run(auto_resume=True)
    assert run.start("worker") and run.request_stop()
    expire(run)
    sweep("other", send=sent.append)
    run.refresh_from_db()
    assert run.status == Status.CRASHED and sent == []


@pytest.mark.fault("The broker loses a message", "An idle worker announces the run again within 10 s.")
def test_a_queued_run_whose_message_was_lost_is_announced_again_by_an_idle_worker(make_run: MakeRun, sent: list[int]) -> None:
    busy, waiting = make_run(), make_run(hinted_at=now() - timedelta(seconds=60))
    fresh = make_run(hinted_at=now())
    assert busy.start("w0")
    sweep("w0", send=sent.append)
    assert sent == []
    sweep("w1", send=sent.append)
    sweep("w1", send=sent.append)
    assert sent == [waiting.pk]
    assert fresh.status == Status.QUEUED


def test_a_worker_that_shuts_down_asks_only_its_own_runs_back(make_run: MakeRun) -> None:
    mine, other = make_run(), make_run()
    assert mine.start("w1") and other.start("w11")
    ask_back("w1")
    mine.refresh_from_db()
    other.refresh_from_db()
    assert mine.hand_back and not other.hand_back


def test_a_run_trained_elsewhere_is_never_lost(make_run: MakeRun, sent: list[int]) -> None:
    run = make_run(is_external=True, status=Status.RUNNING, lease_until=now() - timedelta(days=1))
    sweep("other", send=sent.append)
    run.refresh_from_db()
    assert run.status == Status.RUNNING
