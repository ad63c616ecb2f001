"""`manage.py restore FILE`: what `backup` wrote, into an empty EVSYS_HOME."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from evsys_web.home.backups import BackupRefused, restore_backup


class Command(BaseCommand):
    help = "Put a backup back into an empty EVSYS_HOME and bring its tables up to this release."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            summary = restore_backup(options["file"])
        except BackupRefused as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{summary.num_files:,} files and the database are back, {filesizeformat(summary.num_bytes)}.")
        self.stdout.write(
            "Now start it: python3 manage.py up. What was running when the backup was made resumes, or says how to."
        )
