"""Checkpoints of alice's, with files as a run leaves them, and evals of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from evsys_web.accounts.models import Project
from evsys_web.evals.models import EvalRun, Status
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.checkpoints import Manifest
from recipes.types import Checkpoint as Saved
from tests.evsys_web.runs.conftest import MakeRun
from tests.evsys_web.runs.conftest import make_run as make_run
from tests.evsys_web.runs.conftest import runs_dir as runs_dir
from tests.evsys_web.runs.conftest import version as version

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture
def ended_run(make_run: MakeRun) -> TrainingRun:
    return make_run(status=Status.COMPLETED, name="adding up")


@pytest.fixture
def make_checkpoint(ended_run: TrainingRun) -> MakeCheckpoint:
    """A row, its folders and its line in the manifest."""

    def make(name: str = "final", step: int = 30, run: TrainingRun | None = None, **values: Any) -> Checkpoint:
        run = run or ended_run
        folder = run.output_dir / "checkpoints" / name
        for part, file in (("sampler", "adapter_model.safetensors"), ("state", "state.safetensors")):
            (folder / part).mkdir(parents=True)
            (folder / part / file).write_bytes(b"weights")
        (folder / "sampler" / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": "starter"}))
        uris = {"state_uri": str(folder / "state"), "sampler_uri": str(folder / "sampler")}
        Manifest(run.output_dir).append(Saved(name, step, uris["state_uri"], uris["sampler_uri"]))
        defaults = {"run": run, "name": name, "step": step, "metrics": {"train/mean_nll": 0.5}, **uris}
        return Checkpoint.objects.create(**(defaults | values))

    return make


@pytest.fixture
def checkpoint(make_checkpoint: MakeCheckpoint) -> Checkpoint:
    """`final` of a completed run."""
    return make_checkpoint()


def evaluated(checkpoint: Checkpoint, project: Project, share: float, **values: Any) -> EvalRun:
    """An eval of the checkpoint that came to this share of right attempts."""
    summary = {"avg": {"value": share, "low": share - 0.1, "high": share + 0.1}}
    defaults = {"project": project, "name": "how good", "status": Status.COMPLETED, "summary": summary, "k": 4}
    run: EvalRun = EvalRun.objects.create(checkpoint=checkpoint, **(defaults | values))
    return run
