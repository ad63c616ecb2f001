"""Tells a cycle in lines of text while it is under way: each step when it begins, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from evsys_web.cycles.models import Cycle, Status
from evsys_web.cycles.steps import COMING, steps_of


class _Told(NamedTuple):
    round_number: int
    title: str
    is_end: bool


class Teller:
    """Called whenever somebody has looked at the cycle; says what is new since the last time."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._told: set[_Told] = set()

    def __call__(self, cycle: Cycle) -> None:
        rounds = list(cycle.rounds.select_related("eval_run", "curation__dataset_version__dataset", "training_run", "judged"))
        for step in steps_of(cycle, rounds):
            if step.status not in (COMING, Status.QUEUED):
                self._once(_Told(self._round(step.title, len(rounds)), step.title, False), f"\n{step.title}. {step.why}")
            if step.status == Status.COMPLETED:
                self._once(_Told(self._round(step.title, len(rounds)), step.title, True), f"  → {step.came_of}")

    def _once(self, told: _Told, line: str) -> None:
        if told not in self._told:
            self._told.add(told)
            self._say(line)

    def _round(self, title: str, newest: int) -> int:
        return 0 if title == "Baseline" else newest
