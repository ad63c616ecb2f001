"""Sweeps of alice's over mock runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs import metrics
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.sweeps.actions import launch_sweep
from evsys_web.sweeps.models import Sweep
from recipes.sweep_config import SweepConfig
from tests.evsys_web.runs.conftest import mock_config
from tests.evsys_web.runs.conftest import runs_dir as runs_dir
from tests.evsys_web.runs.conftest import version as version

RATE = "algorithm.params.learning_rate"
MakeSweep = Callable[..., Sweep]


def sweep_values(axes: dict[str, Any] | None = None, seeds: list[int] | None = None) -> dict[str, Any]:
    matrix = {"axes": {RATE: [0.01, 0.1]} if axes is None else axes, "seeds": [0, 1, 2] if seeds is None else seeds}
    return mock_config(max_steps=3) | {"matrix": matrix}


@pytest.fixture
def make_sweep(alice: User, project: Project, version: DatasetVersion) -> MakeSweep:
    def make(axes: dict[str, Any] | None = None, seeds: list[int] | None = None, **values: Any) -> Sweep:
        config = SweepConfig.from_values(sweep_values(axes, seeds))
        return launch_sweep(user=alice, project=project, config=config, dataset_version=version, **values)

    return make


@pytest.fixture
def sweep(make_sweep: MakeSweep) -> Sweep:
    """Two learning rates × three seeds, all queued."""
    return make_sweep()


def completed(run: TrainingRun, **values: float) -> None:
    """The run as it would be had it trained to these last values."""
    metrics.append(run, 1, {key.replace("__", "/"): value for key, value in values.items()})
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.COMPLETED)
