"""Runs and datasets to show, made without training anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import Dataset
from evsys_web.runs.models import Status, TrainingRun

MakeRun = Callable[..., TrainingRun]
MakeDataset = Callable[..., Dataset]


@pytest.fixture
def make_run(alice: User, project: Project) -> MakeRun:
    def make(name: str = "sums", status: Status = Status.COMPLETED, **values: Any) -> TrainingRun:
        run: TrainingRun = TrainingRun.objects.create(
            **({"project": project, "created_by": alice, "name": name, "status": status} | values)
        )
        return run

    return make


@pytest.fixture
def make_dataset(project: Project) -> MakeDataset:
    def make(name: str = "sums", **values: Any) -> Dataset:
        dataset: Dataset = Dataset.objects.create(**({"project": project, "name": name} | values))
        return dataset

    return make
