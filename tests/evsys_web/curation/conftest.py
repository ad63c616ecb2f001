"""Eval runs of alice's whose attempts are there, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.curation.actions import Published, publish
from evsys_web.curation.columns import forget_columns
from evsys_web.evals.models import Attempt, Benchmark, EvalRun, EvalTask, Status, outcome_of
from recipes.curation import CurationSettings

MakeRun = Callable[..., EvalRun]
BAND = {"never": [0, 0, 0, 0], "seldom": [0, 1, 0, 0], "often": [1, 1, 0, 1], "always": [1, 1, 1, 1]}
"""Four tasks at four attempts: `0 < avg < 1` keeps the two in the middle, with four right attempts between them."""


def chat(task: str, number: int, *, right: bool) -> list[dict[str, Any]]:
    reply = {"role": "assistant", "content": f"{'Right' if right else 'Wrong'} {number}", "reasoning": "Let me think."}
    return [{"role": "user", "content": f"What is {task}?"}, reply]


def add_attempts(run: EvalRun, outcomes: dict[str, Sequence[int | None]], **values: Any) -> None:
    """By task id, 1 for each right attempt, 0 for a wrong one, None for an error."""
    for position, (task_id, verdicts) in enumerate(outcomes.items(), start=run.tasks.count() + 1):
        judged = [bool(verdict) for verdict in verdicts if verdict is not None]
        n, num_correct, num_errors = len(judged), sum(judged), len(verdicts) - len(judged)
        task = EvalTask.objects.create(
            eval_run=run,
            position=position,
            task_id=task_id,
            prompt=f"What is {task_id}?",
            n=n,
            num_correct=num_correct,
            num_errors=num_errors,
            sum_reward=num_correct,
            accuracy=num_correct / n if n else None,
            outcome=outcome_of(n, num_correct, num_errors),
            seq=run.last_seq + 1,
        )
        for number, verdict in enumerate(verdicts):
            made = {"messages": chat(task_id, number, right=bool(verdict)), "num_tokens": 5}
            if verdict is None:
                made |= {"error": "The server did not answer.", "error_kind": "timeout"}
            else:
                made |= {"is_correct": bool(verdict), "reward": float(verdict), "signals": {"length": 1.0 / (number + 1)}}
            Attempt.objects.create(eval_run=run, task=task, attempt=number, **(made | values))
    done = run.attempts.filter(error_kind="").count()
    EvalRun.objects.filter(pk=run.pk).update(
        num_tasks=run.tasks.count(), num_done=done, num_errors=run.attempts.count() - done, last_seq=run.last_seq + 1
    )
    run.refresh_from_db()


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    forget_columns()
    yield


@pytest.fixture
def benchmark_row(project: Project) -> Benchmark:
    benchmark: Benchmark = Benchmark.objects.create(project=project, name="Sums", num_tasks=4)
    return benchmark


@pytest.fixture
def make_run(alice: User, project: Project, benchmark_row: Benchmark) -> MakeRun:
    def make(outcomes: dict[str, Sequence[int | None]] | None = None, **values: Any) -> EvalRun:
        defaults = {
            "project": project,
            "created_by": alice,
            "name": "sums",
            "status": Status.COMPLETED,
            "benchmark": benchmark_row,
            "is_imported": True,
            "model_label": "starter",
            "k": 4,
        }
        run: EvalRun = EvalRun.objects.create(**(defaults | values))
        add_attempts(run, BAND if outcomes is None else outcomes)
        return run

    return make


@pytest.fixture
def run(make_run: MakeRun) -> EvalRun:
    return make_run()


@pytest.fixture
def published(alice: User, project: Project, run: EvalRun) -> Published:
    settings = CurationSettings(filter="0 < avg < 1")
    return publish(user=alice, project=project, eval_runs=[run], settings=settings, name="band")
