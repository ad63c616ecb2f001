"""A cycle whose worker is killed, with all its processes, in every move and in every part: it ends as if nothing had been."""

from __future__ import annotations

import subprocess
import time
from collections import Counter

import pytest

from evsys_web.cycles.models import Cycle, Status
from evsys_web.runs import metrics
from evsys_web.runs.models import TrainingRun
from tests.evsys_web.cycles.conftest import MakeCycle, counts, counts_of
from tests.evsys_web.workers import QUEUES, StartWorker, send_hint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]

DEATHS = [
    *("move:1", "part"),  # the baseline
    *("move:1", "part"),  # attempts to learn from
    *("move:1", "move:2"),  # into curation; out of it, when the rows are published
    *("unsent", "part"),  # training
    *("move:1", "part"),  # held-out attempts
    "move:1",  # the end
]


def wait_for_death(worker: subprocess.Popen[bytes], cycle: Cycle, place: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while worker.poll() is None:
        assert time.monotonic() < deadline, f"it lives on at {place}: {Cycle.objects.get(pk=cycle.pk).where}"
        time.sleep(0.02)
    assert worker.returncode == -9


@pytest.mark.fault(
    "kill -9 of the worker in every move and every part of a cycle, publishing included",
    "The cycle goes on by itself; each part was made once.",
)
def test_a_worker_killed_in_every_move_and_every_part_loses_and_doubles_nothing(
    start_worker: StartWorker, make_cycle: MakeCycle
) -> None:
    cycle = make_cycle()
    for place, death in enumerate(DEATHS):
        worker = start_worker(QUEUES, "-I", "tests.evsys_web.cycles.dying", DIE_IN=death)
        if place < 2:  # told of by its launch a moment ago, a sweep would wait before it tells again
            send_hint(cycle)
        wait_for_death(worker, cycle, f"{place}, {death}")
    start_worker()
    deadline = time.monotonic() + 120
    while not cycle.has_ended:
        assert time.monotonic() < deadline, cycle.where
        time.sleep(0.05)
        cycle.refresh_from_db()
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
