"""A cycle from its launch to its end: what each move makes, and that it makes it once, whatever comes between."""

from __future__ import annotations

from threading import Barrier, Thread
from typing import Any

import pytest
from django.db import connections

from evsys_web.cycles import advance as moves
from evsys_web.cycles.advance import advance
from evsys_web.cycles.models import Cycle, Reason, Stage, Status
from evsys_web.cycles.parts import PartMaker
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalRun
from evsys_web.runs.models import TrainingRun
from tests.evsys_web.cycles.conftest import MakeCycle, counts, counts_of, do_part, drive

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

NUM_MOVES = 6
"""Of a cycle of one round: one into each of five stages, and the end."""


class Killed(BaseException):
    """What no code of ours may catch, as a kill cannot be caught."""


def begin_until(cycle: Cycle, number: int) -> None:
    """Move by move, until move `number` (from 0) is the next one and what it waits for has ended."""
    for _ in range(number):
        move_once(cycle)
        do_part(cycle)


def move_once(cycle: Cycle) -> None:
    seen = moves._look(cycle.pk)
    assert seen is not None
    moves._move(seen)


def test_a_cycle_evaluates_curates_trains_and_evaluates_again(make_cycle: MakeCycle) -> None:
    cycle = drive(make_cycle(rounds=2, stop={"patience": None}))
    assert (cycle.status, cycle.reason, cycle.error) == (Status.COMPLETED, Reason.ROUNDS, "")
    assert counts() == counts_of(rounds=2)
    first, second = cycle.rounds.all()
    assert first.finding["baseline"]["num_common"] == 6 and first.finding["reference_round"] == 0
    assert (first.gained, second.gained) == (False, False) and second.finished_at
    weights = [run.config["model"]["init_from_checkpoint"] for run in (first.training_run, second.training_run)]
    assert weights == [None, first.checkpoint.sampler_uri]
    sampled = [run.config["model"]["checkpoint"] for run in (cycle.baseline, first.judged, second.eval_run, second.judged)]
    assert sampled == [None, first.checkpoint.sampler_uri, first.checkpoint.sampler_uri, second.checkpoint.sampler_uri]
    assert first.curation.dataset_version == first.training_run.dataset_version
    assert cycle.num_tokens > 0 and cycle.num_seconds > 0


def test_the_parts_wait_their_turn_and_go_on_by_themselves_after_a_lost_worker(cycle: Cycle) -> None:
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert (cycle.status, cycle.stage, cycle.part) == (Status.RUNNING, Stage.BASELINE, cycle.baseline)
    assert cycle.baseline.status == Status.QUEUED and cycle.baseline.auto_resume
    advance(cycle.pk)
    assert counts() == counts_of(rounds=0)


@pytest.mark.parametrize("number", range(NUM_MOVES))
def test_a_move_delivered_twice_is_made_once(cycle: Cycle, number: int) -> None:
    begin_until(cycle, number)
    one, other = moves._look(cycle.pk), moves._look(cycle.pk)
    assert one is not None and other is not None
    moves._move(one)
    after = counts()
    moves._move(other)
    assert counts() == after
    assert drive(cycle).status == Status.COMPLETED
    assert counts() == counts_of(rounds=1)


@pytest.mark.parametrize("number", range(NUM_MOVES))
def test_a_process_killed_within_a_move_has_made_nothing(cycle: Cycle, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_until(cycle, number)
    before, place = counts(), Cycle.objects.get(pk=cycle.pk).place

    def die(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Cycle, "note", die)  # the last thing that every move does
        with pytest.raises(Killed):
            move_once(cycle)
    again = Cycle.objects.get(pk=cycle.pk)
    published = {"Curation": 1} if again.stage == Stage.CURATE else {}  # stands before its transaction, and is found again
    assert (counts(), again.place) == ({**before, **published}, place)
    assert drive(cycle).status == Status.COMPLETED
    assert counts() == counts_of(rounds=1) and DatasetVersion.objects.filter(dataset__name__startswith="cycle").count() == 1


def test_four_at_once_make_each_part_once(cycle: Cycle) -> None:
    for _ in range(NUM_MOVES):
        together = Barrier(4)

        def move(pk: int = cycle.pk, start: Barrier = together) -> None:
            try:
                start.wait(60)
                advance(pk)
            finally:
                connections.close_all()

        threads = [Thread(target=move) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        do_part(cycle)
    cycle.refresh_from_db()
    assert cycle.status == Status.COMPLETED, cycle.error
    assert counts() == counts_of(rounds=1)


def test_a_part_that_failed_ends_the_cycle_with_its_sentence_and_resume_goes_on_with_it(make_cycle: MakeCycle) -> None:
    cycle = make_cycle()
    begin_until(cycle, 3)
    move_once(cycle)
    run = TrainingRun.objects.get()
    assert run.start("w") and run.fail("The disk is full.")
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert cycle.status == Status.FAILED and cycle.error == "Round 1, training: The disk is full."
    advance(cycle.pk)
    assert cycle.queue()
    assert drive(cycle).status == Status.COMPLETED
    run.refresh_from_db()
    assert (run.status, run.attempt, counts()) == (Status.COMPLETED, 2, counts_of(rounds=1))


@pytest.mark.parametrize(("end", "status"), [("crash", Status.CRASHED), ("fail", Status.FAILED)])
def test_how_a_part_ended_is_how_the_cycle_ends(cycle: Cycle, end: str, status: Status) -> None:
    advance(cycle.pk)
    run = EvalRun.objects.get()
    assert run.start("w") and getattr(run, end)("It broke.", error_type="SomeError")
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert (cycle.status, cycle.error, cycle.error_type) == (status, "Baseline eval: It broke.", "SomeError")


def test_a_part_deleted_by_hand_is_said_and_made_again_on_resume(cycle: Cycle) -> None:
    advance(cycle.pk)
    EvalRun.objects.all().delete()
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert cycle.status == Status.FAILED and "was deleted" in cycle.error
    assert cycle.queue()
    assert drive(cycle).status == Status.COMPLETED
    assert counts() == counts_of(rounds=1)


def test_what_cannot_be_launched_fails_the_cycle_in_a_sentence(cycle: Cycle, learn: Any) -> None:
    begin_until(cycle, 1)
    learn.delete()
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert cycle.status == Status.FAILED and "benchmark to learn by was deleted" in cycle.error
    assert counts() == counts_of(rounds=0)


def test_an_owner_who_left_the_project_is_told_so(cycle: Cycle, project: Any) -> None:
    project.memberships.all().delete()
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert cycle.status == Status.FAILED and "not in this project" in cycle.error


def test_what_nobody_foresaw_crashes_the_cycle_with_its_traceback(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    from evsys_web.cycles.tasks import advance_cycle

    def break_down(self: PartMaker) -> None:
        raise ZeroDivisionError("oh")

    with monkeypatch.context() as patch:
        patch.setattr(PartMaker, "make", break_down)
        with pytest.raises(ZeroDivisionError):
            advance_cycle(cycle.pk)
    cycle.refresh_from_db()
    assert (cycle.status, cycle.error_type) == (Status.CRASHED, "ZeroDivisionError")
    assert "break_down" in cycle.error_detail and "ZeroDivisionError" in cycle.error
    assert cycle.queue()
    assert drive(cycle).status == Status.COMPLETED
