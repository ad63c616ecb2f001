"""`manage.py bench [name …] [--quick]`: runs the measurements in benchmarks/, one process each; fails when one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = "Run benchmarks by name (all without a name); each prints what it measured."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", help="benchmarks/<name>.py")
        parser.add_argument("--quick", action="store_true", help="Small sizes: does it run, not how fast is it.")

    def handle(self, *args: Any, **options: Any) -> None:
        there = available(settings.ROOT / "benchmarks")
        if unknown := [name for name in options["names"] if name not in there]:
            raise CommandError(f"There is no benchmark {', '.join(unknown)}. Choose from: {', '.join(sorted(there))}.")
        failed = []
        for name in options["names"] or sorted(there):
            self.stdout.write(self.style.MIGRATE_HEADING(name))
            self.stdout.flush()
            command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if options["quick"] else [])]
            if subprocess.run(command, cwd=settings.ROOT, check=False).returncode:
                failed.append(name)
        if failed:
            raise CommandError(f"Failed: {', '.join(failed)}.")


def available(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
