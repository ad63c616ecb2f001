"""`manage.py export_cycle ID FILE.zip`: everything that a cycle made, in formats that need no program of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.accounts.commands import chosen_user
from evsys_web.cycles.export import export_cycle
from evsys_web.cycles.models import Cycle, visible_cycle
from evsys_web.runs.actions import RunRefused


class Command(BaseCommand):
    help = "Write a cycle that has ended to a zip file."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("cycle", type=int, help="Its number, as in its address.")
        parser.add_argument("file", type=Path, help="The zip file to write; one that is there is not overwritten.")
        parser.add_argument("--user", help="In whose name; by default the first administrator's.")

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["file"]
        try:
            chunks = export_cycle(visible_cycle(chosen_user(options["user"]), options["cycle"]))
            with path.open("xb") as file:
                file.writelines(chunks)
        except Cycle.DoesNotExist:
            raise CommandError(f"There is no cycle {options['cycle']}.") from None
        except RunRefused as refusal:
            raise CommandError(str(refusal)) from None
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}.") from None
        self.stdout.write(f"{path}: {path.stat().st_size:,} bytes.")
