"""`manage.py reap`: remove what ended and deleted work left on other people's machines, or say what that would be."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.runs.leftovers import leftovers, remove

MOST_HOURS = 24 * 365 * 10


def hours(text: str) -> timedelta:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_HOURS:
        raise ArgumentTypeError(f"{text!r} is no number of hours from 0 to {MOST_HOURS:,}")
    return timedelta(hours=value)


class Command(BaseCommand):
    help = "Remove what ended and deleted runs and evals left on hosted services. Workers do so at once and every ten minutes."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be removed; no service is asked.")
        parser.add_argument(
            "--hours",
            type=hours,
            help="What was left by work that ended so long ago goes; unless given, 10 minutes for what is billed by time, "
            "24 hours for the rest.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        num_removed = num_failed = 0
        for leftover in leftovers(older_than=options["hours"]):
            if options["dry_run"]:
                for resource in leftover.resources:
                    self.stdout.write(f"{leftover.name}: {resource.kind} {resource.name} would be removed.")
                continue
            for resource, why in remove(leftover):
                num_removed, num_failed = num_removed + (not why), num_failed + bool(why)
                words = f"was not removed: {why}" if why else "removed."
                self.stdout.write(f"{leftover.name}: {resource.kind} {resource.name} {words}")
        if num_failed:
            raise CommandError(f"{num_failed} things are still there; {num_removed} were removed.")
        self.stdout.write("Nothing was removed." if not num_removed else f"{num_removed} things were removed.")
