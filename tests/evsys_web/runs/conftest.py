"""Runs of alice's in every state, without training anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.models import Status, TrainingRun

MakeRun = Callable[..., TrainingRun]


@pytest.fixture(autouse=True)
def runs_dir(settings: Settings, tmp_path: Path) -> Path:
    settings.RUNS_DIR = tmp_path / "runs"
    return tmp_path / "runs"


def mock_config(**params: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "sums",
        "model": {"name": "starter"},
        "data": {"dataset": "sums@1"},
        "algorithm": {"kind": "mock_sft", "params": params},
        "backend": {"kind": "mock", "params": {}},
    }


@pytest.fixture
def make_run(alice: User, project: Project) -> MakeRun:
    def make(**values: Any) -> TrainingRun:
        defaults = {
            "project": project,
            "created_by": alice,
            "name": "sums",
            "status": Status.QUEUED,
            "config": mock_config(),
            "dataset_reference": "sums@1",
        }
        run: TrainingRun = TrainingRun.objects.create(**(defaults | values))
        return run

    return make


@pytest.fixture
def run(make_run: MakeRun) -> TrainingRun:
    """Queued."""
    return make_run()


@pytest.fixture
def held_run(run: TrainingRun) -> TrainingRun:
    """Claimed by a worker, about to train."""
    assert run.start("worker")
    return run


@pytest.fixture
def version(alice: User, project: Project, tmp_path: Path) -> DatasetVersion:
    """sums@1: twelve chats."""
    rows = [
        {"messages": [{"role": "user", "content": f"{n} + {n}"}, {"role": "assistant", "content": str(2 * n)}]} for n in range(12)
    ]
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return import_dataset(user=alice, project=project, name="sums", path=path).version
