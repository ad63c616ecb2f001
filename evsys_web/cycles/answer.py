"""What came of a cycle, in a sentence: how far the newest round that was judged is from the model before training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.evals.templatetags.eval_numbers import points, points_interval


@dataclass(frozen=True, slots=True)
class Answer:
    """level: of the notice. notes: what should be known beside the sentence."""

    level: str
    sentence: str
    notes: list[str] = field(default_factory=list)


def answer_of(cycle: Cycle) -> Answer:
    """From the newest round that was judged; `cycle.rounds` may be prefetched."""
    judged = [round_ for round_ in cycle.rounds.all() if round_.finding.get("baseline")]
    if not judged:
        return Answer("info", "No round has been judged yet.")
    return _compared(cycle, judged[-1])


def _compared(cycle: Cycle, round_: CycleRound) -> Answer:
    found: dict[str, Any] = round_.finding["baseline"]
    difference = found["difference"]
    if difference is None:
        return Answer("info", "No held-out task has a verdict both before and after training.")
    tasks = f"{found['num_common']:,} held-out task{'' if found['num_common'] == 1 else 's'}"
    k = round_.judged.k if round_.judged else cycle.baseline.k if cycle.baseline else 0
    changed = f"{found['num_newly_solved']:,} newly solved, {found['num_newly_broken']:,} broken"
    numbers = f"{points(difference['value'])}, 95 % interval {points_interval(difference)}, {changed}, k = {k} on {tasks}"
    if difference["low"] > 0:
        return Answer("success", f"Better after round {round_.number}: {numbers}.")
    if difference["high"] < 0:
        return Answer("error", f"Worse after round {round_.number}: {numbers}.")
    notes = []
    if effect := found["minimum_detectable_effect"]:
        size = points(effect).removeprefix("+")
        notes.append(f"With {tasks} that differ as much, a true difference of {size} would be seen four times out of five.")
    return Answer("info", f"No change can be seen after round {round_.number}: {numbers}.", notes)
