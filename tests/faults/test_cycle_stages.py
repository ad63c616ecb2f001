"""kill -9 in every move and in every part of a cycle: it ends as if nothing had been."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from evsys_web.celery import app
from evsys_web.cycles.models import Cycle, Stage, Status
from evsys_web.evals.recorder import EvalRecorder
from evsys_web.evals.tasks import run_eval
from evsys_web.runs import metrics
from evsys_web.runs.leases import kinds, sweep
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.recorder import RunRecorder
from evsys_web.runs.tasks import train_run
from tests.evsys_web.cycles.conftest import MakeCycle, counts, counts_of
from tests.evsys_web.cycles.conftest import judge as judge
from tests.evsys_web.cycles.conftest import learn as learn
from tests.evsys_web.cycles.conftest import make_cycle as make_cycle
from tests.evsys_web.cycles.conftest import make_tasks as make_tasks
from tests.evsys_web.cycles.conftest import runs_dir as runs_dir
from tests.faults.dying import Place, do_and_die, eventually
from tests.faults.dying import short_lease as short_lease

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900), pytest.mark.usefixtures("short_lease")]

MOVE = Place(Cycle, "note")
"""Within a move, before it is committed."""
ATTEMPTS = Place(EvalRecorder, "_tidy")
"""Within a part, when something of it is written down."""
DEATHS = [
    (Stage.BASELINE, MOVE),  # as it is made
    (Stage.BASELINE, Place(run_eval, "delay")),  # when it is made and nobody was told
    (Stage.BASELINE, ATTEMPTS),
    (Stage.BASELINE, MOVE),
    (Stage.LEARN, ATTEMPTS),
    (Stage.LEARN, MOVE),
    (Stage.CURATE, MOVE._replace(time=2)),  # out of it, when the rows are published; the first is into it
    (Stage.TRAIN, Place(train_run, "delay")),
    (Stage.TRAIN, Place(RunRecorder, "_tidy", time=2)),
    (Stage.TRAIN, MOVE),
    (Stage.JUDGE, ATTEMPTS),
    (Stage.JUDGE, MOVE),  # the end
]
"""Where it dies, and what the cycle is at then: a move that is not committed was not made."""


def work_off(cycle: Cycle) -> None:
    """What a worker does that finds nothing in its queue: it sweeps, and does what it announced, until the cycle has ended."""

    def do(task: str, pk: int) -> None:
        app.tasks[task].apply(args=[pk], throw=True)

    def has_ended() -> bool:
        for model in kinds():
            sweep("another", send=partial(do, model.TASK), model=model)
        cycle.refresh_from_db()
        return cycle.has_ended

    eventually(has_ended)


@pytest.mark.fault(
    "kill -9 of the worker in every move and every part of a cycle, publishing included",
    "The cycle goes on by itself; each part was made once.",
    kills={"worker"},
    during={"cycle", "publish"},
)
def test_a_cycle_survives_a_death_in_every_move_and_every_part(make_cycle: MakeCycle) -> None:
    cycle = make_cycle()
    for stage, place in DEATHS:
        do_and_die(partial(work_off, cycle), place)
        cycle.refresh_from_db()
        assert (cycle.has_ended, cycle.stage) == (False, stage), place.name
    work_off(cycle)
    assert (cycle.status, cycle.error) == (Status.COMPLETED, "")
    assert counts() == counts_of(rounds=1)
    assert [event.message for event in cycle.events.all()] == [
        "Baseline eval begins.",
        "Round 1, eval to learn from begins.",
        "Round 1, curation begins.",
        "Round 1, training begins.",
        "Round 1, held-out eval begins.",
        "Complete. 1 of 1 rounds are done.",
    ]
    round_, run = cycle.rounds.get(), TrainingRun.objects.get()
    for eval_run in (cycle.baseline, round_.eval_run, round_.judged):
        attempts = Counter(eval_run.attempts.values_list("task__task_id", "attempt"))
        assert len(attempts) == 18 and set(attempts.values()) == {1} and eval_run.attempt == 2
    assert run.attempt == 2 and run.step == 4
    assert [row.step for row in metrics.after(run, 0, limit=100)] == [1, 2, 3, 4]
