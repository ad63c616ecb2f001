"""`manage.py sweep config.yaml`: the same launch as the page's and the API's, for scripts on this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.accounts.commands import add_owner_arguments, chosen_project, chosen_user
from evsys_web.accounts.models import User
from evsys_web.runs.commands import POLL_SECONDS, config_text, refuse, version_of
from evsys_web.runs.tasks import train_run
from evsys_web.sweeps.actions import launch_sweep
from evsys_web.sweeps.models import Sweep, visible_sweep
from evsys_web.sweeps.results import Table, table_of
from evsys_web.sweeps.schemas import SweepDetail, results_of
from recipes.errors import RecipeError
from recipes.sweep_config import Spread, SweepConfig


class Command(BaseCommand):
    help = "Launch every run of a sweep from a YAML file: a run's settings, and a matrix of axes and seeds."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("config", type=Path, help="The YAML file, as the page of a sweep exports it.")
        add_owner_arguments(parser)
        parser.add_argument("--wait", action="store_true", help="Wait for the end; exit status 1 unless every run completed.")
        parser.add_argument("--here", action="store_true", help="Train in this process instead of a worker, and wait.")
        parser.add_argument("--json", action="store_true", help="Print it as JSON, as the REST API does, and nothing else.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._is_quiet = bool(options["json"])
        user = chosen_user(options["user"])
        project = chosen_project(user, options["project"])
        path: Path = options["config"]
        try:
            config = SweepConfig.from_yaml(config_text(path))
            version = version_of(config.data, user=user, project=project, folder=path.parent)
            sweep = launch_sweep(user=user, project=project, config=config, dataset_version=version)
        except (RecipeError, ValidationError, PermissionDenied) as error:
            refuse(error)
        self._say(f"Sweep {sweep.pk} ({sweep}): {config.matrix.num_runs} runs are queued.")
        if options["here"]:
            for run_id in sweep.members.order_by("pk").values_list("run", flat=True):
                train_run.apply(args=[run_id])
        if options["here"] or options["wait"]:
            sweep = self._waited(user, sweep)
        self._print(visible_sweep(user, sweep.pk), is_over=options["here"] or options["wait"])

    def _waited(self, user: User, sweep: Sweep) -> Sweep:
        shown = ""
        while True:
            sweep = visible_sweep(user, sweep.pk)
            counts: Any = sweep
            found = f"{counts.num_completed} completed, {counts.num_failed} failed, {counts.num_active} at work"
            if found != shown:
                shown = found
                self._say(f"{found}, {counts.num_queued} waiting")
            if not counts.num_queued and not counts.num_active:
                return sweep
            time.sleep(POLL_SECONDS)

    def _print(self, sweep: Sweep, *, is_over: bool) -> None:
        table = table_of(sweep)
        if self._is_quiet:
            body = SweepDetail.from_orm(sweep).model_dump(mode="json") | {"results": results_of(table)}
            self.stdout.write(json.dumps(body, indent=2))
        elif is_over:
            for line in lines_of(table):
                self._say(line)
        counts: Any = sweep
        if is_over and counts.num_completed < counts.num_runs:
            raise CommandError(f"Sweep {sweep.pk}: {counts.num_runs - counts.num_completed} runs did not complete.")

    def _say(self, line: str) -> None:
        if not self._is_quiet:
            self.stdout.write(line)


def lines_of(table: Table) -> list[str]:
    """The table as columns of text."""
    rows = [[*table.names, *table.keys, "completed"]]
    for row in table.rows:
        rows.append([*row.texts, *map(_spread_text, row.spreads), f"{row.num_completed} of {len(row.members)}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _spread_text(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.4g}" if spread.deviation is None else f"{spread.mean:.4g} ± {spread.deviation:.2g}"
