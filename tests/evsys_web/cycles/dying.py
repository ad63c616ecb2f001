"""Loaded into a worker (`celery worker -I`): it kills itself and its pool with SIGKILL where DIE_IN says.

move:n: within its n-th move, before that is committed; unsent: when a part is made, and nobody was told; part: within
the part that it does, when something of it is written down already."""

from __future__ import annotations

import os
import signal
from typing import Any

from evsys_web.cycles.models import Cycle
from evsys_web.evals.tasks import run_eval
from evsys_web.runs.recorder import Begun, Recorder
from evsys_web.runs.status import Standing
from evsys_web.runs.tasks import train_run

where, _, number = os.environ["DIE_IN"].partition(":")


def die(*args: Any, **kwargs: Any) -> None:
    os.killpg(0, signal.SIGKILL)


if where == "move":
    note, moves = Cycle.note, []

    def note_or_die(self: Cycle, message: str, *, level: str = "info") -> None:
        moves.append(message)
        if len(moves) == int(number):
            die()
        note(self, message, level=level)

    Cycle.note = note_or_die  # type: ignore[method-assign]
elif where == "unsent":
    run_eval.delay = train_run.delay = die
elif where == "part":
    commit = Recorder._commit

    def commit_and_die(self: Recorder[Any], items: list[Any]) -> Standing:
        standing = commit(self, items)
        if not all(isinstance(item, Begun) for item in items):
            die()
        return standing

    Recorder._commit = commit_and_die  # type: ignore[method-assign]
