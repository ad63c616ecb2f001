"""Builds eval runs with attempts, without sampling anything."""

from __future__ import annotations

from typing import Any

from evsys_web.accounts.models import Project, User
from evsys_web.evals.models import Attempt, Benchmark, EvalRun, EvalTask, outcome_of
from evsys_web.runs.status import Status
from recipes.evals.metrics import summarise

ERROR = None


def eval_config(**values: Any) -> dict[str, Any]:
    config = {
        "version": 1,
        "name": "sums",
        "model": {"name": "starter"},
        "data": {"dataset": "tasks@1"},
        "verifier": {"kind": "numeric", "params": {}},
    }
    return {**config, **values}


def build_eval(
    project: Project, owner: User, verdicts: dict[str, list[bool | None]] | None = None, *, reply: str = "It is 4.", **values: Any
) -> EvalRun:
    """A completed eval: by task id, one entry per attempt that says right, wrong or (None) an error."""
    verdicts = {"first": [True, True], "second": [True, False], "third": [False, False]} if verdicts is None else verdicts
    benchmark = (
        values.pop("benchmark", None)
        or Benchmark.objects.get_or_create(
            project=project, name="Sums", defaults={"verifier": {"kind": "numeric", "params": {}}, "dataset_reference": "tasks@1"}
        )[0]
    )
    made = [verdict for each in verdicts.values() for verdict in each]
    defaults = {
        "project": project,
        "created_by": owner,
        "name": "sums",
        "benchmark": benchmark,
        "status": Status.COMPLETED,
        "config": eval_config(),
        "dataset_reference": "tasks@1",
        "model_label": "starter",
        "k": max(map(len, verdicts.values()), default=1),
        "num_tasks": len(verdicts),
        "num_done": sum(verdict is not ERROR for verdict in made),
        "num_errors": sum(verdict is ERROR for verdict in made),
    }
    run: EvalRun = EvalRun.objects.create(**(defaults | values))
    for position, (task_id, each) in enumerate(verdicts.items(), start=1):
        add_task(run, position, task_id, each, reply)
    run.summary = summarise(run.task_counts()).as_json()
    run.save(update_fields=["summary"])
    return run


def add_task(run: EvalRun, position: int, task_id: str, verdicts: list[bool | None], reply: str) -> EvalTask:
    n, num_correct = sum(verdict is not ERROR for verdict in verdicts), sum(verdict is True for verdict in verdicts)
    num_errors = len(verdicts) - n
    task = EvalTask.objects.create(
        eval_run=run,
        position=position,
        task_id=task_id,
        prompt=f"How much is {task_id}?",
        answer=4,
        n=n,
        num_correct=num_correct,
        num_errors=num_errors,
        sum_reward=float(num_correct),
        accuracy=num_correct / n if n else None,
        outcome=outcome_of(n, num_correct, num_errors),
    )
    Attempt.objects.bulk_create(
        Attempt(eval_run=run, task=task, attempt=number, **attempt_values(verdict, task.prompt, reply))
        for number, verdict in enumerate(verdicts)
    )
    return task


def attempt_values(verdict: bool | None, prompt: str, reply: str) -> dict[str, Any]:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    if verdict is ERROR:
        return {"messages": asked, "error": "The server answered 429 too often.", "error_kind": "rate_limit"}
    return {
        "messages": [*asked, {"role": "assistant", "content": reply}],
        "reward": float(verdict),
        "is_correct": verdict,
        "info": {"found": "4"},
        "num_tokens": 7,
        "seconds": 0.25,
        "stop_reason": "stop",
    }
