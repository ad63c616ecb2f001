"""`manage.py backup FILE`: everything that the embedded size keeps, while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from evsys_web.home.backups import BackupRefused, write_backup


class Command(BaseCommand):
    help = "Write database, files, runs and keys into one tar file, while everything runs (embedded size; SQLite)."

    def add_arguments(self, parser: CommandParser) -> None:
        help = "A new file. It holds the keys of the installation: keep it as safe as they are."
        parser.add_argument("file", type=Path, help=help)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            summary = write_backup(options["file"])
        except BackupRefused as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"{options['file']}: {summary.num_files:,} files and the database, {filesizeformat(summary.num_bytes)}."
        )
        for name in summary.vanished[:20]:
            self.stderr.write(f"Deleted meanwhile, and not in it: {name}")
        if not isinstance(settings.STORAGES["default"]["OPTIONS"].get("location"), Path):
            self.stderr.write("Uploads lie in EVSYS_STORAGE_URL; back that up by its own means.")
