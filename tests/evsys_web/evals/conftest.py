"""Benchmarks of alice's, eval runs in every state, and a chat server on loopback that does what a test asks of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.actions import create_benchmark
from evsys_web.evals.models import Benchmark, EvalRun, Status
from recipes.rollouts import AttemptResult
from recipes.types import Task

NUM_TASKS = 6
MakeEval = Callable[..., EvalRun]


def task_rows(count: int = NUM_TASKS) -> list[dict[str, Any]]:
    return [
        {"task_id": f"sum-{n}", "messages": [{"role": "user", "content": f"What is {n} + {n}?"}], "answer": 2 * n}
        for n in range(count)
    ]


def tasks(count: int = NUM_TASKS) -> list[Task]:
    return [Task.of(row) for row in task_rows(count)]


def attempt(task: int, number: int, *, right: bool = True, error: str | None = None, **values: Any) -> AttemptResult:
    """An attempt at task sum-<task>."""
    verdict: dict[str, Any] = {"reward": float(right), "is_correct": right} if error is None else {}
    failure = {"error": error, "error_kind": "timeout"} if error else {}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    return AttemptResult(f"sum-{task}", number, **verdict, **failure, messages=messages, num_tokens=3, **values)


@pytest.fixture
def make_version(alice: User, project: Project, tmp_path: Path) -> Callable[..., DatasetVersion]:
    def make(rows: list[dict[str, Any]], name: str = "sums") -> DatasetVersion:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return import_dataset(user=alice, project=project, name=name, path=path).version

    return make


@pytest.fixture
def version(make_version: Callable[..., DatasetVersion]) -> DatasetVersion:
    return make_version(task_rows())


@pytest.fixture
def benchmark_row(alice: User, project: Project, version: DatasetVersion) -> Benchmark:
    """Named so because `benchmark` is a fixture of a well-known plugin."""
    verifier = {"kind": "numeric"}
    return create_benchmark(user=alice, project=project, name="Sums", dataset_version=version, verifier=verifier)


def config_values(**values: Any) -> dict[str, Any]:
    return {
        "name": "sums",
        "model": {"name": "starter"},
        "data": {"dataset": "sums@1"},
        "verifier": {"kind": "numeric"},
        "attempts": 2,
        **values,
    }


@pytest.fixture
def make_eval(alice: User, project: Project, benchmark_row: Benchmark) -> MakeEval:
    def make(**values: Any) -> EvalRun:
        defaults = {
            "project": project,
            "created_by": alice,
            "name": "sums",
            "status": Status.QUEUED,
            "benchmark": benchmark_row,
            "dataset_version": benchmark_row.dataset_version,
            "dataset_reference": benchmark_row.dataset_reference,
            "config": config_values(),
            "model_label": "starter",
            "k": 2,
        }
        run: EvalRun = EvalRun.objects.create(**(defaults | values))
        return run

    return make


@pytest.fixture
def eval_run(make_eval: MakeEval) -> EvalRun:
    """Queued."""
    return make_eval()


@pytest.fixture
def held_eval(eval_run: EvalRun) -> EvalRun:
    """Claimed by a worker."""
    assert eval_run.start("worker")
    return eval_run
