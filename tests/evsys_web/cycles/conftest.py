"""Cycles of alice's on a model that is small but real: bigrams of bytes, sampled and trained in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db.models import Model
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project, User
from evsys_web.curation.models import Curation
from evsys_web.cycles.actions import launch_cycle
from evsys_web.cycles.advance import advance
from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.actions import create_benchmark
from evsys_web.evals.models import Benchmark, EvalRun
from evsys_web.evals.tasks import run_eval
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.tasks import train_run
from recipes.cycle_config import CycleConfig

MakeCycle = Callable[..., Cycle]
NUM_TASKS = 6
VERIFIER = {"kind": "contains"}


@pytest.fixture(autouse=True)
def runs_dir(settings: Settings, tmp_path: Path) -> Path:
    settings.RUNS_DIR = tmp_path / "runs"
    return tmp_path / "runs"


def task_rows(words: str, count: int = NUM_TASKS) -> list[dict[str, Any]]:
    """A reply is right when it holds an e: one in five untrained ones does."""
    return [
        {"task_id": f"{words}-{n}", "messages": [{"role": "user", "content": f"{words} {n}"}], "answer": "e"}
        for n in range(count)
    ]


@pytest.fixture
def make_tasks(alice: User, project: Project, tmp_path: Path) -> Callable[..., DatasetVersion]:
    def make(name: str, rows: list[dict[str, Any]] | None = None) -> DatasetVersion:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows or task_rows(name)))
        return import_dataset(user=alice, project=project, name=name, path=path).version

    return make


@pytest.fixture
def learn(alice: User, project: Project, make_tasks: Callable[..., DatasetVersion]) -> Benchmark:
    return create_benchmark(user=alice, project=project, name="Learn", dataset_version=make_tasks("learn"), verifier=VERIFIER)


@pytest.fixture
def judge(alice: User, project: Project, make_tasks: Callable[..., DatasetVersion]) -> Benchmark:
    return create_benchmark(user=alice, project=project, name="Judge", dataset_version=make_tasks("judge"), verifier=VERIFIER)


def cycle_values(**values: Any) -> dict[str, Any]:
    return {
        "name": "bytes",
        "backend": {"kind": "mock"},
        "learn": {"benchmark": "Learn"},
        "judge": {"benchmark": "Judge"},
        "rounds": 1,
        "attempts": 3,
        "sampling": {"max_tokens": 60},
        "training": {"kind": "sft", "params": {"learning_rate": 0.05, "max_steps": 4, "batch_size": 8}},
        **values,
    }


@pytest.fixture
def make_cycle(alice: User, project: Project, learn: Benchmark, judge: Benchmark) -> MakeCycle:
    def make(**values: Any) -> Cycle:
        return launch_cycle(user=alice, project=project, config=CycleConfig.from_values(cycle_values(**values)))

    return make


@pytest.fixture
def cycle(make_cycle: MakeCycle) -> Cycle:
    """Queued."""
    return make_cycle()


def do_part(cycle: Cycle) -> bool:
    """What a worker would do next: the part that waits in the queue. False when none does."""
    cycle.refresh_from_db()
    part = cycle.part
    if part is None or part.status != "queued":
        return False
    (run_eval if isinstance(part, EvalRun) else train_run).apply(args=[part.pk], throw=True)
    return True


def drive(cycle: Cycle, *, most_parts: int = 50) -> Cycle:
    """Until nothing moves any more."""
    advance(cycle.pk)
    for _ in range(most_parts):
        if not do_part(cycle):
            break
        advance(cycle.pk)
    cycle.refresh_from_db()
    return cycle


def counts() -> dict[str, int]:
    """How many parts there are of each kind."""
    kinds: list[type[Model]] = [EvalRun, Curation, TrainingRun, CycleRound]
    return {kind.__name__: kind._default_manager.count() for kind in kinds}


def counts_of(*, rounds: int) -> dict[str, int]:
    """How many there are to be after so many rounds."""
    return {"EvalRun": 1 + 2 * rounds, "Curation": rounds, "TrainingRun": rounds, "CycleRound": rounds}
