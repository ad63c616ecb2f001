"""`manage.py import_cycle FILE.zip`: a cycle that was exported elsewhere, by the same action as the page and the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.accounts.commands import add_owner_arguments, chosen_project, chosen_user
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.import_actions import import_cycle
from evsys_web.cycles.models import visible_cycle
from evsys_web.cycles.schemas import CycleDetail
from recipes.errors import RecipeError


class Command(BaseCommand):
    help = "Import a cycle from the zip that an export gave; rounds are judged anew."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="The zip file.")
        add_owner_arguments(parser)
        parser.add_argument("--json", action="store_true", help="Print the cycle as JSON and nothing else.")

    def handle(self, *args: Any, **options: Any) -> None:
        user = chosen_user(options["user"])
        project = chosen_project(user, options["project"])
        if not options["file"].is_file():
            raise CommandError(f"There is no file {options['file']}.")
        try:
            made = import_cycle(user=user, project=project, path=options["file"])
        except (RecipeError, PermissionDenied) as error:
            raise CommandError(str(error)) from None
        cycle = visible_cycle(user, made.pk)
        if options["json"]:
            self.stdout.write(CycleDetail.from_orm(cycle).model_dump_json(indent=2))
        else:
            self.stdout.write(f"Cycle {cycle.pk} ({cycle}) is imported. {answer_of(cycle).sentence}")
