"""`manage.py train config.yaml`: the same launch as the page's and the API's, for scripts on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.accounts.commands import add_owner_arguments, chosen_project, chosen_user
from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.runs.actions import launch_run
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.schemas import RunDetail
from evsys_web.runs.tasks import train_run
from recipes.config import RunConfig
from recipes.errors import RecipeError

POLL_SECONDS = 0.5


class Command(BaseCommand):
    help = "Launch a run from a YAML file. Its data is a dataset of the dashboard (data.dataset) or a JSONL file (data.path)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("config", type=Path, help="The run as YAML, as the run page exports it.")
        add_owner_arguments(parser)
        parser.add_argument("--wait", action="store_true", help="Wait for the end; exit status 1 unless it completed.")
        parser.add_argument("--here", action="store_true", help="Train in this process instead of a worker, and wait.")
        parser.add_argument("--json", action="store_true", help="Print the run as JSON and nothing else.")

    def handle(self, *args: Any, **options: Any) -> None:
        self.quiet = bool(options["json"])
        try:
            run = self._launch(options)
        except (RecipeError, ValidationError) as error:
            raise CommandError("; ".join(error.messages) if isinstance(error, ValidationError) else str(error)) from None
        self._say(f"Run {run.pk} ({run.name}) is queued.")
        if options["here"]:
            train_run.apply(args=[run.pk])
        if options["here"] or options["wait"]:
            self._wait(run)
        run.refresh_from_db()
        if self.quiet:
            self.stdout.write(RunDetail.from_orm(run).model_dump_json(indent=2))
        if run.has_ended and run.status != Status.COMPLETED:
            raise CommandError(f"Run {run.pk} {run.status} after step {run.step}. {run.error}".strip())

    def _launch(self, options: dict[str, Any]) -> TrainingRun:
        user = chosen_user(options["user"])
        project = chosen_project(user, options["project"])
        config = RunConfig.from_yaml(config_text(options["config"]))
        version = _rows(user, project, config, folder=options["config"].parent)
        return launch_run(user=user, project=project, config=config, dataset_version=version)

    def _wait(self, run: TrainingRun) -> None:
        shown = -1
        while True:
            run.refresh_from_db()
            if run.step != shown:
                shown = run.step
                self._say(f"{run.get_status_display()}: step {run.step} of {run.num_steps or '?'}")
            if run.has_ended:
                return
            time.sleep(POLL_SECONDS)

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.stdout.write(line)


def config_text(path: Path) -> str:
    """Raises CommandError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}.") from None


def _rows(user: User, project: Project, config: RunConfig, *, folder: Path) -> DatasetVersion:
    """The dataset that the config names, or its file imported as one; the same rows again give the same version."""
    if config.data.path is None:
        return Dataset.objects.resolve(config.data.dataset or "", user, project=project)
    path = folder / config.data.path
    if not path.is_file():
        raise CommandError(f"data.path: there is no file {path}.")
    return import_dataset(user=user, project=project, name=path.stem, path=path, filename=path.name).version
