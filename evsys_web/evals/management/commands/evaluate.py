"""`manage.py evaluate config.yaml`: the same launch as the page's and the API's, for scripts on this machine."""

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
from evsys_web.evals.actions import benchmark_of, launch_eval
from evsys_web.evals.models import EvalRun, Status
from evsys_web.evals.schemas import EvalDetail
from evsys_web.evals.tasks import run_eval
from evsys_web.runs.management.commands.train import config_text
from recipes.errors import RecipeError
from recipes.eval_config import EvalConfig

POLL_SECONDS = 0.5


class Command(BaseCommand):
    help = "Launch an eval run from a YAML file. Its tasks are a dataset here (data.dataset) or a JSONL file (data.path)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("config", type=Path, help="The eval as YAML, as its page exports it.")
        add_owner_arguments(parser)
        parser.add_argument("--wait", action="store_true", help="Wait for the end; exit status 1 unless it completed.")
        parser.add_argument("--here", action="store_true", help="Sample in this process instead of a worker, and wait.")
        parser.add_argument("--json", action="store_true", help="Print the eval run and its numbers as JSON and nothing else.")

    def handle(self, *args: Any, **options: Any) -> None:
        self.quiet = bool(options["json"])
        try:
            run = self._launch(options)
        except (RecipeError, ValidationError) as error:
            raise CommandError("; ".join(error.messages) if isinstance(error, ValidationError) else str(error)) from None
        self._say(f"Eval run {run.pk} ({run.name}) is queued.")
        if options["here"]:
            run_eval.apply(args=[run.pk])
        if options["here"] or options["wait"]:
            self._wait(run)
        run.refresh_from_db()
        if self.quiet:
            self.stdout.write(EvalDetail.from_orm(run).model_dump_json(indent=2))
        elif found := run.summary.get("avg"):
            interval = f" ({found['low']:.1%} to {found['high']:.1%})" if found["low"] is not None else ""
            self._say(f"{found['value']:.1%}{interval} of {run.num_done:,} attempts are right; {run.num_errors:,} errors.")
        if run.has_ended and run.status != Status.COMPLETED:
            raise CommandError(f"Eval run {run.pk} {run.status} after {run.num_done:,} attempts. {run.error}".strip())

    def _launch(self, options: dict[str, Any]) -> EvalRun:
        user = chosen_user(options["user"])
        project = chosen_project(user, options["project"])
        config = EvalConfig.from_yaml(config_text(options["config"]))
        version = _tasks(user, project, config, folder=options["config"].parent)
        verifier = config.verifier.model_dump()
        benchmark = benchmark_of(user=user, project=project, dataset_version=version, verifier=verifier)
        return launch_eval(user=user, project=project, config=config, benchmark=benchmark)

    def _wait(self, run: EvalRun) -> None:
        shown = -1
        while True:
            run.refresh_from_db()
            if run.num_done + run.num_errors != shown:
                shown = run.num_done + run.num_errors
                self._say(f"{run.get_status_display()}: {shown:,} of {run.num_attempts:,} attempts")
            if run.has_ended:
                return
            time.sleep(POLL_SECONDS)

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.stdout.write(line)


def _tasks(user: User, project: Project, config: EvalConfig, *, folder: Path) -> DatasetVersion:
    """The dataset that the config names, or its file imported as one; the same tasks again give the same version."""
    if config.data.path is None:
        return Dataset.objects.resolve(config.data.dataset or "", user, project=project)
    path = folder / config.data.path
    if not path.is_file():
        raise CommandError(f"data.path: there is no file {path}.")
    return import_dataset(user=user, project=project, name=path.stem, path=path, filename=path.name).version
