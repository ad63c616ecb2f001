"""What the commands share that launch work from a YAML file: its text, its rows, the wait, and what is said of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from celery import Task
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from ninja import Schema

from evsys_web.accounts.commands import add_owner_arguments, chosen_project, chosen_user
from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.runs.status import Status
from evsys_web.runs.work import Tracked
from recipes.config import DataConfig
from recipes.errors import RecipeError

POLL_SECONDS = 0.5

W = TypeVar("W", bound=Tracked)


class LaunchCommand(BaseCommand, Generic[W]):
    """`manage.py VERB config.yaml [--wait | --here] [--json]`. A subclass says what is launched and how it is told.

    noun: begins a sentence ("Run"). task: does the work, given its id. detail: the work as the REST API shows it.
    """

    noun: ClassVar[str]
    task: ClassVar[Task]
    detail: ClassVar[type[Schema]]

    def launch(self, text: str, *, user: User, project: Project, folder: Path) -> W:
        """Queue what the YAML text says; paths in it begin at `folder`. Raises RecipeError, ValidationError, CommandError."""
        raise AssertionError(f"{type(self).__name__} launches nothing")

    def progress(self, work: W) -> str:
        """How far it is ("step 3 of 12"): said whenever it changes, and when it ended too early."""
        raise AssertionError(f"{type(self).__name__} tells no progress")

    def do_here(self, work: W) -> None:
        """All of the work, in this process."""
        self.task.apply(args=[work.pk])

    def result(self, work: W) -> str:
        """What came of it, in a sentence; empty when there is nothing to say."""
        return ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("config", type=Path, help="The YAML file, as the page of one exports it.")
        add_owner_arguments(parser)
        parser.add_argument("--wait", action="store_true", help="Wait for the end; exit status 1 unless it completed.")
        parser.add_argument("--here", action="store_true", help="Work in this process instead of a worker, and wait.")
        parser.add_argument("--json", action="store_true", help="Print it as JSON, as the REST API does, and nothing else.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._is_quiet = bool(options["json"])
        user = chosen_user(options["user"])
        project = chosen_project(user, options["project"])
        path: Path = options["config"]
        try:
            work = self.launch(config_text(path), user=user, project=project, folder=path.parent)
        except (RecipeError, ValidationError, PermissionDenied) as error:
            refuse(error)
        self.say(f"{self.noun} {work.pk} ({work}) is queued.")
        if options["here"]:
            self.do_here(work)
        if options["here"] or options["wait"]:
            self._wait(work)
        work.refresh_from_db()
        if self._is_quiet:
            self.stdout.write(self.detail.from_orm(work).model_dump_json(indent=2))
        elif found := self.result(work):
            self.say(found)
        if work.has_ended and work.status != Status.COMPLETED:
            sentence = f"{self.noun} {work.pk} {work.get_status_display().lower()} after {self.progress(work)}. {work.error}"
            raise CommandError(sentence.strip())

    def say(self, line: str) -> None:
        if not self._is_quiet:
            self.stdout.write(line)

    def _wait(self, work: W) -> None:
        shown = ""
        while True:
            work.refresh_from_db()
            if (found := f"{work.get_status_display()}: {self.progress(work)}") != shown:
                shown = found
                self.say(found)
            if work.has_ended:
                return
            time.sleep(POLL_SECONDS)


def config_text(path: Path) -> str:
    """Raises CommandError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}.") from None


def version_of(data: DataConfig, *, user: User, project: Project, folder: Path) -> DatasetVersion:
    """The dataset that a config names, or its file imported as one; the same rows again give the same version.
    Raises RecipeError, ValidationError, CommandError."""
    if data.path is None:
        return Dataset.objects.resolve(data.dataset or "", user, project=project)
    path = folder / data.path
    if not path.is_file():
        raise CommandError(f"data.path: there is no file {path}.")
    return import_dataset(user=user, project=project, name=path.stem, path=path, filename=path.name).version


def refuse(error: RecipeError | ValidationError | PermissionDenied) -> NoReturn:
    """End the command with the error's own words. Raises CommandError."""
    raise CommandError("; ".join(error.messages) if isinstance(error, ValidationError) else str(error)) from None
