"""`manage.py import_attempts FILE…`: attempts that were made elsewhere become eval runs, one per file or folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.accounts.commands import add_owner_arguments, chosen_project, chosen_user
from evsys_web.accounts.models import Project
from evsys_web.evals.import_actions import AttemptsRefused, ImportedRun, counted, import_attempts
from evsys_web.evals.models import Benchmark
from recipes.errors import RecipeError

NUM_SHOWN = 20


class Command(BaseCommand):
    help = (
        "Import attempts: plain JSONL, lm-evaluation-harness samples, an rLLM run (folder or zip), an Inspect AI log. "
        "A file with a bad line is refused whole, unless --skip-bad."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="Files, or folders of rLLM runs.")
        parser.add_argument("--name", default="", help="Name of the eval run; by default the file's.")
        parser.add_argument("--benchmark", default="", help="Name of a benchmark of the project to show it under.")
        parser.add_argument("--model", default="", help="What was sampled from; by default what the file says.")
        parser.add_argument("--only-model", default="", help="Of a file with several models, only the attempts by this one.")
        parser.add_argument("--trajectory", default="", help="Of rLLM episodes with several, the one to take. [the first]")
        parser.add_argument("--skip-bad", action="store_true", help="Import the good attempts and list the others.")
        add_owner_arguments(parser)
        parser.add_argument("--json", action="store_true", help="Print the eval runs as JSON and nothing else.")

    def handle(self, *args: Any, **options: Any) -> None:
        user = chosen_user(options["user"])
        project = chosen_project(user, options["project"])
        benchmark = _benchmark(project, options["benchmark"])
        imported: list[ImportedRun] = []
        for path in options["files"]:
            if not path.exists():
                raise CommandError(f"There is no file or folder {path}.")
            try:
                found = import_attempts(
                    user=user,
                    project=project,
                    path=path,
                    filename=path.resolve().name,
                    name=options["name"],
                    benchmark=benchmark,
                    model_label=options["model"],
                    only_model=options["only_model"],
                    trajectory=options["trajectory"],
                    leave_out_bad=options["skip_bad"],
                )
            except AttemptsRefused as refusal:
                raise CommandError(_refusal(path, refusal)) from None
            except (RecipeError, PermissionDenied, OSError) as error:
                raise CommandError(f"{path}: {error}") from None
            imported.append(found)
            if not options["json"]:
                self._say(path, found)
        if options["json"]:
            self.stdout.write(json.dumps([as_json(found) for found in imported], indent=2, ensure_ascii=False))

    def _say(self, path: Path, found: ImportedRun) -> None:
        run, report = found
        self.stdout.write(
            f"{path}: eval run {run.pk} ({run.name}, {run.model_label}): "
            f"{counted(report.num_attempts, 'attempt')} at {counted(report.num_tasks, 'task')}, "
            f"{report.num_errors:,} of them errors."
        )
        for reason, number in report.passed_over.items():
            self.stdout.write(f"Passed over {number:,}: {reason}.")
        if report.num_refused:
            self.stdout.write(f"Left out {report.num_refused:,}:")
        for error in report.refused[:NUM_SHOWN]:
            self.stdout.write(f"  {error}")


def as_json(found: ImportedRun) -> dict[str, Any]:
    """The eval run and what its file held, for scripts."""
    run, report = found
    return {
        "id": run.pk,
        "name": run.name,
        "model_label": run.model_label,
        "source": run.source,
        "num_tasks": report.num_tasks,
        "num_attempts": report.num_attempts,
        "num_errors": report.num_errors,
        "num_refused": report.num_refused,
        "refused": [str(error) for error in report.refused],
        "passed_over": report.passed_over,
        "summary": run.summary,
    }


def _refusal(path: Path, refusal: AttemptsRefused) -> str:
    report = refusal.report
    if not report.refused:
        return f"{path}: {refusal}"
    more = "" if report.num_refused <= NUM_SHOWN else f"\n  and {report.num_refused - NUM_SHOWN:,} more"
    listed = "".join(f"\n  {error}" for error in report.refused[:NUM_SHOWN])
    advice = f" --skip-bad imports the other {report.num_attempts:,}." if report.num_attempts else ""
    if refusal.clash:
        advice = f" {refusal.clash} It is named by --only-model."
    return f"{path}: {report.num_refused:,} refused, and nothing is imported.{advice}{listed}{more}"


def _benchmark(project: Project, name: str) -> Benchmark | None:
    if not name:
        return None
    benchmark: Benchmark | None = Benchmark.objects.filter(project=project, name=name).first()
    if benchmark is None:
        raise CommandError(f"Project {project} has no benchmark {name!r}.")
    return benchmark
