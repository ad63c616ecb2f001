"""Stopping and resuming a cycle at each of its stages, and what ends it before its last round."""

from __future__ import annotations

from typing import Any

import pytest

from evsys_web.accounts.models import User
from evsys_web.cycles.actions import delete_cycle, resume_cycle, stop_cycle
from evsys_web.cycles.advance import advance
from evsys_web.cycles.models import Cycle, CycleRound, Reason, Stage, Status
from evsys_web.cycles.stopping import rounds_done
from evsys_web.evals.models import EvalRun
from evsys_web.runs.actions import RunRefused
from recipes.cycle_config import CycleConfig
from tests.evsys_web.cycles.conftest import MakeCycle, counts, counts_of, cycle_values, do_part, drive

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]


def test_a_queued_cycle_is_cancelled_at_once_and_resumes(cycle: Cycle, alice: User) -> None:
    stop_cycle(user=alice, cycle=cycle)
    advance(cycle.pk)
    assert cycle.status == Status.CANCELLED and counts() == counts_of(rounds=0) | {"EvalRun": 0}
    resume_cycle(user=alice, cycle=cycle)
    assert drive(cycle).status == Status.COMPLETED


@pytest.mark.parametrize("num_parts", range(4))
def test_a_stop_ends_the_part_under_way_and_resume_goes_on_with_it(cycle: Cycle, alice: User, num_parts: int) -> None:
    advance(cycle.pk)
    for _ in range(num_parts):
        do_part(cycle)
        advance(cycle.pk)
    cycle.refresh_from_db()
    part, before = cycle.part, counts()
    assert part is not None and part.start("w")
    stop_cycle(user=alice, cycle=cycle)
    assert cycle.status == Status.STOPPING
    part.refresh_from_db()
    assert part.status == Status.STOPPING
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert cycle.status == Status.STOPPING
    assert part.cancel()
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert (cycle.status, cycle.error, counts()) == (Status.CANCELLED, "", before)
    resume_cycle(user=alice, cycle=cycle)
    assert drive(cycle).status == Status.COMPLETED
    part.refresh_from_db()
    assert (part.status, part.attempt, counts()) == (Status.COMPLETED, 2, counts_of(rounds=1))


def test_a_stop_that_comes_when_the_part_is_done_begins_no_further_one(cycle: Cycle, alice: User) -> None:
    advance(cycle.pk)
    do_part(cycle)
    stop_cycle(user=alice, cycle=cycle)
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert (cycle.status, cycle.stage, counts()) == (Status.CANCELLED, Stage.BASELINE, counts_of(rounds=0))
    resume_cycle(user=alice, cycle=cycle)
    assert drive(cycle).status == Status.COMPLETED and counts() == counts_of(rounds=1)


def test_a_part_that_waits_in_the_queue_is_cancelled_with_its_cycle(cycle: Cycle, alice: User) -> None:
    advance(cycle.pk)
    cycle.refresh_from_db()
    stop_cycle(user=alice, cycle=cycle)
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert (cycle.status, EvalRun.objects.get().status) == (Status.CANCELLED, Status.CANCELLED)


def test_a_second_stop_stops_the_part_at_once(cycle: Cycle, alice: User) -> None:
    advance(cycle.pk)
    cycle.refresh_from_db()
    assert cycle.part is not None and cycle.part.start("w")
    stop_cycle(user=alice, cycle=cycle)
    stop_cycle(user=alice, cycle=cycle)
    assert EvalRun.objects.get().stop_requested == 2


def test_what_does_not_fit_the_state_is_refused_in_a_sentence(cycle: Cycle, alice: User) -> None:
    with pytest.raises(RunRefused, match="is queued and cannot be resumed"):
        resume_cycle(user=alice, cycle=cycle)
    advance(cycle.pk)
    with pytest.raises(RunRefused, match="Stop it first"):
        delete_cycle(user=alice, cycle=cycle)
    drive(cycle)
    with pytest.raises(RunRefused, match="is completed and cannot be stopped"):
        stop_cycle(user=alice, cycle=cycle)
    delete_cycle(user=alice, cycle=cycle)
    assert not Cycle.objects.exists() and not CycleRound.objects.exists() and EvalRun.objects.count() == 3


def test_the_target_ends_it_even_before_the_first_round(make_cycle: MakeCycle) -> None:
    cycle = drive(make_cycle(stop={"target": 0.01}))
    assert (cycle.status, cycle.reason, counts()) == (Status.COMPLETED, Reason.TARGET, counts_of(rounds=0))
    assert "the target was 1.0%" in cycle.events.last().message


@pytest.mark.parametrize("stop", [{"max_tokens": 100}, {"max_hours": 1e-9}])
def test_a_spent_budget_begins_no_further_part(make_cycle: MakeCycle, stop: dict[str, Any]) -> None:
    cycle = drive(make_cycle(stop=stop))
    assert (cycle.status, cycle.reason, counts()) == (Status.COMPLETED, Reason.BUDGET, counts_of(rounds=0))
    assert "spent" in cycle.events.last().message


def test_weights_that_were_paid_for_are_judged_whatever_the_budget_says(make_cycle: MakeCycle) -> None:
    cycle = make_cycle(rounds=2, stop={"max_tokens": 10**9})
    advance(cycle.pk)
    for _ in range(2):
        do_part(cycle)
        advance(cycle.pk)
    cycle.refresh_from_db()
    assert cycle.stage == Stage.TRAIN
    Cycle.objects.filter(pk=cycle.pk).update(num_tokens=10**9)
    cycle = drive(cycle)
    assert (cycle.reason, counts()) == (Reason.BUDGET, counts_of(rounds=1))
    assert cycle.rounds.get().finding["baseline"]["num_common"] == 6


def test_rounds_without_a_gain_end_it(make_cycle: MakeCycle) -> None:
    cycle = drive(make_cycle(rounds=3, stop={"patience": 1}))
    assert (cycle.status, cycle.reason, counts()) == (Status.COMPLETED, Reason.NO_GAIN, counts_of(rounds=1))


def test_patience_counts_from_the_last_gain() -> None:
    config = CycleConfig.from_values(cycle_values(rounds=5, stop={"patience": 2}))
    ends = [
        (gains, rounds_done(config, gains)) for gains in ([False], [True, False], [False, False], [False, True, False, False])
    ]
    assert [found and found.reason for _, found in ends] == [None, None, Reason.NO_GAIN, Reason.NO_GAIN]
    assert (last := rounds_done(config, [True] * 5)) and last.reason == Reason.ROUNDS


def test_a_first_round_without_rows_fails_with_a_sentence(make_cycle: MakeCycle) -> None:
    cycle = drive(make_cycle(curation={"filter": "n > 100"}))
    assert cycle.status == Status.FAILED
    assert cycle.error == "Round 1, curation: Nothing to publish: no attempt passes the filter and the selection."
    assert counts() == counts_of(rounds=0) | {"EvalRun": 2, "CycleRound": 1}


def test_a_later_round_without_rows_completes_the_cycle(make_cycle: MakeCycle) -> None:
    cycle = make_cycle(rounds=3, stop={"patience": None})
    advance(cycle.pk)
    for _ in range(5):
        do_part(cycle)
        advance(cycle.pk)
    cycle.refresh_from_db()
    assert (cycle.round_number, cycle.stage) == (2, Stage.TRAIN)
    config = {**cycle.config, "curation": {"filter": "n > 100"}}
    Cycle.objects.filter(pk=cycle.pk).update(stage=Stage.CURATE, current_run=None, config=config)
    cycle = drive(cycle)
    assert (cycle.status, cycle.reason) == (Status.COMPLETED, Reason.NO_ROWS)
