"""`manage.py demo`: the guided first cycle, from an empty folder to the answer, told step by step. Fails unless the model got
better beyond doubt."""

from __future__ import annotations

import json
import time
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from evsys_web.accounts.commands import chosen_user
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.first import launch_first_cycle
from evsys_web.cycles.models import Cycle, Status
from evsys_web.cycles.schemas import CycleDetail
from evsys_web.cycles.tasks import advance_cycle
from evsys_web.cycles.telling import Teller
from evsys_web.evals.models import EvalRun
from evsys_web.evals.tasks import run_eval
from evsys_web.home.management.commands import up
from evsys_web.runs.commands import POLL_SECONDS
from evsys_web.runs.tasks import train_run
from recipes.errors import RecipeError

MOST_SECONDS = 1800


class Command(up.Command):
    help = "Run the guided first cycle on the bundled model and say by how much it got better; exit status 1 unless it did."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--quick", action="store_true", help="Fewer tasks and attempts: does it work, not how well.")
        parser.add_argument(
            "--json", action="store_true", help="Print the cycle as JSON, as the REST API does, and nothing else."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._is_quiet = bool(options["json"])
        began = time.monotonic()
        self.prepare()
        user = chosen_user(None)
        try:
            cycle = launch_first_cycle(user=user, project=user.default_project(), quick=options["quick"])
        except RecipeError as error:
            raise CommandError(str(error)) from None
        self.say("A model of one megabyte learns from its own right attempts at sums. No key, no GPU, no network.")
        self._do(cycle, deadline=began + MOST_SECONDS)
        self._tell_the_end(cycle, time.monotonic() - began)

    def say(self, sentence: str) -> None:
        """Beside the JSON, to the error stream: the first start's password must not be lost."""
        if self._is_quiet:
            self.stderr.write(sentence)
        else:
            super().say(sentence)

    def _do(self, cycle: Cycle, *, deadline: float) -> None:
        """Part after part, in this process; what a worker of a running dashboard took up first is waited for."""
        tell = Teller(self.say)
        while True:
            advance_cycle.apply(args=[cycle.pk])
            cycle.refresh_from_db()
            part = cycle.part
            if part is not None and part.status == Status.QUEUED:
                tell(cycle)
                (run_eval if isinstance(part, EvalRun) else train_run).apply(args=[part.pk])
                continue
            tell(cycle)
            if cycle.has_ended:
                return
            if time.monotonic() > deadline:
                raise CommandError(f"The cycle did not end within {MOST_SECONDS // 60} minutes; it is at: {cycle.where}.")
            time.sleep(POLL_SECONDS)

    def _tell_the_end(self, cycle: Cycle, seconds: float) -> None:
        answer = answer_of(cycle)
        if self._is_quiet:
            shown = json.loads(CycleDetail.from_orm(cycle).model_dump_json())
            self.stdout.write(json.dumps(shown | {"seconds": round(seconds, 1)}, indent=2, ensure_ascii=False))
        self.say(f"\n{answer.sentence}\n")
        self.say(f"It took {seconds:.0f} seconds. To look at every attempt, row and step: python3 manage.py up, then")
        self.say(f"  {settings.URL}{cycle.get_absolute_url()}")
        if cycle.status != Status.COMPLETED:
            raise CommandError(f"The cycle {cycle.get_status_display().lower()}. {cycle.error}".strip())
        if answer.level != "success":
            raise CommandError("No improvement could be seen.")
