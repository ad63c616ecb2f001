"""`manage.py train config.yaml`: the same launch as the page's and the API's, for scripts on this machine."""

from __future__ import annotations

from pathlib import Path

from evsys_web.accounts.models import Project, User
from evsys_web.runs.actions import launch_run
from evsys_web.runs.commands import LaunchCommand, version_of
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.schemas import RunDetail
from evsys_web.runs.tasks import train_run
from recipes.config import RunConfig


class Command(LaunchCommand[TrainingRun]):
    help = "Launch a run from a YAML file. Its data is a dataset of the dashboard (data.dataset) or a JSONL file (data.path)."
    noun = "Run"
    task = train_run
    detail = RunDetail

    def launch(self, text: str, *, user: User, project: Project, folder: Path) -> TrainingRun:
        config = RunConfig.from_yaml(text)
        version = version_of(config.data, user=user, project=project, folder=folder)
        return launch_run(user=user, project=project, config=config, dataset_version=version)

    def progress(self, work: TrainingRun) -> str:
        return f"step {work.step} of {work.num_steps}" if work.num_steps else f"step {work.step}"
