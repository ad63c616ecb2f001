"""What is written down when work ends, and what is not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils.timezone import now

from evsys_web.accounts.models import Project, User
from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.notifications.actions import switch_channel
from evsys_web.notifications.models import Channel, Delivery, DeliveryStatus, Notice, Watch
from evsys_web.notifications.sweeping import sweep
from evsys_web.runs.leases import Sweeper
from evsys_web.runs.models import RunEvent, Status, TrainingRun
from recipes.loop import LOSS_IS_NO_NUMBER
from tests.evsys_web.evals.eval_runs import build_eval
from tests.evsys_web.notifications.conftest import MakeChannel, MakeRun


@pytest.mark.parametrize(
    ("status", "event"),
    [(Status.COMPLETED, "run.finished"), (Status.FAILED, "run.failed"), (Status.CRASHED, "run.crashed")],
)
def test_an_end_is_written_down_once_however_often_it_is_swept(
    make_channel: MakeChannel, end_run: MakeRun, status: Status, event: str
) -> None:
    make_channel()
    run = end_run(status, error="" if status == Status.COMPLETED else "The rows are gone.")
    sweep()
    sweep()
    notice = Notice.objects.get()
    assert (notice.type, notice.subject_id, notice.path) == (event, run.pk, run.get_absolute_url())
    assert notice.sentence == ("Finished after 240 steps." if status == Status.COMPLETED else "The rows are gone.")
    assert Delivery.objects.get().status == DeliveryStatus.QUEUED


def test_work_that_ends_again_is_news_again(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    run = end_run(Status.CRASHED)
    sweep()
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.COMPLETED, finished_at=now())
    sweep()
    assert sorted(notice.type for notice in Notice.objects.all()) == ["run.crashed", "run.finished"]


def test_an_eval_says_how_often_it_was_right(make_channel: MakeChannel, alice: User, project: Project) -> None:
    make_channel()
    build_eval(project, alice, finished_at=now())
    build_eval(project, alice, finished_at=now(), is_imported=True)
    sweep()
    notice = Notice.objects.get()
    assert notice.type == "eval.finished" and "right in 50.0 % of attempts (95 % interval" in notice.sentence


def test_a_cycle_tells_its_end_and_its_parts_do_not(
    make_channel: MakeChannel, end_run: MakeRun, alice: User, project: Project
) -> None:
    make_channel()
    baseline = build_eval(project, alice, finished_at=now())
    ended = {"status": Status.COMPLETED, "finished_at": now(), "name": "loop"}
    cycle = Cycle.objects.create(project=project, created_by=alice, baseline=baseline, **ended)
    CycleRound.objects.create(cycle=cycle, number=1, training_run=end_run(), judged=build_eval(project, alice, finished_at=now()))
    brought_in = {**ended, "finished_at": now() - timedelta(seconds=5)}
    Cycle.objects.create(project=project, created_by=alice, **brought_in)
    sweep()
    notice = Notice.objects.get()
    assert (notice.type, notice.subject_id) == ("cycle.finished", cycle.pk) and notice.sentence == "No round has been judged yet."


def test_a_loss_that_is_no_number_is_found_by_what_the_loop_wrote(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    run = end_run(Status.RUNNING, finished_at=None)
    message = f"{LOSS_IS_NO_NUMBER} at step 7. Lower the learning rate."
    for seq, (level, text) in enumerate([("warning", message), ("warning", "Something else."), ("info", message)], start=1):
        RunEvent.objects.create(run=run, seq=seq, level=level, message=text)
    sweep()
    sweep()
    notice = Notice.objects.get()
    assert (notice.type, notice.sentence) == ("run.nan_loss", message)


def test_a_run_whose_checkpoints_expire_is_told_of_once_and_before(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    run = end_run(Status.RUNNING, finished_at=None)
    ago = now() - timedelta(days=4)
    TrainingRun.objects.filter(pk=run.pk).update(created_at=ago)
    for name, kept in (("step_1", timedelta(days=7)), ("final", timedelta(days=7, minutes=1)), ("short", timedelta(days=5))):
        run.checkpoints.create(name=name, step=1, created_at=ago, expires_at=ago + kept - timedelta(seconds=1))
    run.checkpoints.create(name="hours", step=1, expires_at=now() + timedelta(hours=2))
    Channel.objects.update(enabled_at=now() - timedelta(days=1))
    Watch.objects.update_or_create(pk=1, defaults={"seen_until": now() - timedelta(minutes=1)})
    sweep()
    sweep()
    notice = Notice.objects.get()
    assert notice.type == "run.expiring" and notice.sentence.startswith("Its checkpoint step_1 expires on ")


def test_a_cancelled_run_and_one_that_goes_on_are_no_news(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    end_run(Status.CANCELLED)
    end_run(Status.RUNNING, finished_at=None)
    sweep()
    assert not Notice.objects.exists()


def test_each_channel_hears_of_what_it_chose_in_its_own_project(
    make_channel: MakeChannel, end_run: MakeRun, mallory: User
) -> None:
    chosen = make_channel("https://example.org/failures", events=["failed"])
    make_channel("https://example.org/losses", events=["nan_loss"])
    foreign = make_channel("https://example.com/", user=mallory, project=mallory.default_project())
    end_run(Status.FAILED, error="Why.")
    sweep()
    assert [delivery.channel for delivery in Delivery.objects.all()] == [chosen]
    assert not foreign.deliveries.exists()


def test_a_channel_hears_nothing_of_what_happened_before_it_was_on(
    make_channel: MakeChannel, end_run: MakeRun, alice: User
) -> None:
    channel = make_channel()
    switch_channel(user=alice, channel=channel, on=False)
    end_run()
    sweep()
    switch_channel(user=alice, channel=channel, on=True)
    sweep()
    assert not Notice.objects.exists()
    end_run(Status.FAILED)
    sweep()
    assert Notice.objects.get().event == "failed"


def test_what_ended_while_no_worker_lived_is_told_when_one_does(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    Watch.objects.update(seen_until=now() - timedelta(minutes=30))
    end_run(finished_at=now() - timedelta(minutes=29), created_at=now() - timedelta(minutes=40))
    sweep()
    assert Notice.objects.count() == 1
    assert Watch.objects.get().seen_until > now() - timedelta(minutes=1)


def test_what_lies_before_the_last_look_is_old(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    end_run(finished_at=now() - timedelta(minutes=30))
    sweep()
    assert not Notice.objects.exists()


def test_a_lost_message_is_sent_again_and_a_dead_workers_claim_taken_back(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    end_run()
    sweep()
    delivery = Delivery.objects.get()
    told_at = delivery.hinted_at
    Delivery.objects.update(due_at=now() - timedelta(minutes=6), hinted_at=now() - timedelta(minutes=6))
    sweep()
    delivery.refresh_from_db()
    assert told_at and delivery.hinted_at and delivery.hinted_at > told_at
    assert delivery.claim()
    Delivery.objects.update(claimed_until=now() - timedelta(seconds=1))
    sweep()
    assert Delivery.objects.get().status == DeliveryStatus.QUEUED
    assert not delivery.delivered(response_code=200, seconds=1.0), "it is somebody else's now"


def test_a_message_that_nobody_reads_for_a_day_is_given_up_with_a_reason(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    end_run()
    sweep()
    Delivery.objects.update(due_at=now() - timedelta(days=2))
    sweep()
    delivery = Delivery.objects.get()
    assert delivery.status == DeliveryStatus.FAILED and "No worker read the queue" in delivery.error


def test_records_are_kept_for_ninety_days(make_channel: MakeChannel, end_run: MakeRun) -> None:
    make_channel()
    end_run()
    sweep()
    Notice.objects.update(created_at=now() - timedelta(days=91))
    Watch.objects.update(seen_until=now() - timedelta(minutes=2))
    TrainingRun.objects.all().delete()
    sweep()
    assert not Notice.objects.exists() and not Delivery.objects.exists()


def test_a_worker_sweeps_what_the_settings_name() -> None:
    seen: list[str] = []
    sweeper = Sweeper("w", sends={}, further=[lambda worker: seen.append("swept") or sweeper.end()])  # type: ignore[func-returns-value]
    sweeper._keep_sweeping()
    assert seen == ["swept"]
