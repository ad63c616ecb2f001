"""`manage.py prune`: delete what is older than it is kept; `--dry-run` only says what would go."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from evsys_web.home.retention import removals
from evsys_web.runs.actions import RunRefused


class Command(BaseCommand):
    help = "Delete points, samples and checkpoints of runs that ended long ago and that nothing stands on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Say what would go, and delete nothing.")
        for kind, days in settings.KEEP_DAYS.items():
            text = f"Of runs that ended so many days ago; 0 keeps them. EVSYS_KEEP_{kind.upper()}_DAYS: {days}."
            parser.add_argument(f"--{kind}-days", type=int, default=days, metavar="DAYS", help=text)

    def handle(self, *args: Any, **options: Any) -> None:
        keep_days = {kind: options[f"{kind}_days"] for kind in settings.KEEP_DAYS}
        if min(keep_days.values()) < 0:
            raise CommandError("A number of days is negative; 0 keeps things for ever.")
        if not any(keep_days.values()):
            raise CommandError("Everything is kept for ever. Set EVSYS_KEEP_…_DAYS, or give --metrics-days and the like.")
        count = num_bytes = 0
        for removal in removals(keep_days):
            if not options["dry_run"]:
                try:
                    removal.remove()
                except RunRefused as error:
                    self.stderr.write(f"run {removal.run.pk}: {removal.name} stays. {error}")
                    continue
            count, num_bytes = count + 1, num_bytes + (removal.num_bytes or 0)
            self.stdout.write(f"run {removal.run.pk} ({removal.run.name}): {removal.kind}, {removal.name}")
        verb = "would go" if options["dry_run"] else "are gone"
        self.stdout.write(f"{count:,} things {verb}, {filesizeformat(num_bytes)} of files.")
