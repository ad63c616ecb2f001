"""Weights that a run cannot begin from are refused while somebody types, not by the worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import launch_run
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.config import RunConfig
from recipes.errors import ConfigError
from tests.evsys_web.runs.test_form import NEW, fields

pytestmark = pytest.mark.django_db


def test_weights_of_another_rank_are_refused_at_the_rank_before_the_run_waits(
    alice: User, project: Project, alice_client: Client, version: DatasetVersion, run: TrainingRun, runs_dir: Path
) -> None:
    folder = runs_dir / str(run.pk) / "final"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    saved = Checkpoint.objects.create(run=run, name="final", step=9, sampler_uri=str(folder))
    typed = fields(version, algorithm="sft", backend="local", checkpoint=str(saved.pk), **{"algorithm-lora_rank": "16"})
    answer = alice_client.post(NEW, typed)
    assert "rank 4" in answer.context["form"].settings["algorithm"].errors["lora_rank"][0]
    assert "Set lora_rank to 4" in alice_client.post("/runs/new/estimate", typed).content.decode()
    sft = {"kind": "sft", "params": {"lora_rank": 16}}
    asked = RunConfig.from_values(
        {"data": {"dataset": version.reference}, "model": {"init_from_checkpoint": str(folder)}, "algorithm": sft}
    )
    with pytest.raises(ConfigError, match="Set lora_rank to 4"):  # as REST and YAML launch it
        launch_run(user=alice, project=project, config=asked, dataset_version=version)
    assert TrainingRun.objects.count() == 1
