"""What came of a cycle, in a sentence: how far the newest round that was judged is from the model before training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.evals.templatetags.eval_numbers import points, points_interval
from recipes.evals.sample_size import Spread, tasks_needed

HOPED_FOR = 0.05
"""The change that sample sizes are reckoned for where the cycle has no target."""
SIZES = (0.02, 0.05, 0.1)


class Needed(NamedTuple):
    """So many tasks show a true change of `effect` four times out of five, by attempts per task; None: over ten million."""

    effect: float
    by_k: list[int | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """level: of the notice. notes: what should be known beside the sentence. ks, needed: a table of sample sizes, where no change
    can be seen."""

    level: str
    sentence: str
    notes: list[str] = field(default_factory=list)
    ks: list[int] = field(default_factory=list)
    needed: list[Needed] = field(default_factory=list)


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
    left_out = _left_out(found.get("num_leaked", 0))
    numbers = f"{points(difference['value'])}, 95 % interval {points_interval(difference)}, {changed}, k = {k} on {tasks}"
    if difference["low"] > 0:
        return Answer("success", f"Better after round {round_.number}: {numbers}.", left_out)
    if difference["high"] < 0:
        return Answer("error", f"Worse after round {round_.number}: {numbers}.", left_out)
    notes = list(left_out)
    if effect := found["minimum_detectable_effect"]:
        notes.append(
            f"With {tasks} that differ as much, a true difference of {_size(effect)} would be seen four times out of five."
        )
    spread = Spread(**found["spread"]) if found.get("spread") else None
    ks, needed = ([], []) if spread is None else ([k, 4 * k], _sizes(cycle, spread, [k, 4 * k]))
    if needed:
        notes.append(_what_it_takes(needed[0], k))
    return Answer("info", f"No change can be seen after round {round_.number}: {numbers}.", notes, ks, needed)


def _left_out(num_leaked: int) -> list[str]:
    """Tasks whose answers trained the model say nothing of it."""
    if not num_leaked:
        return []
    return [f"Left out: {num_leaked:,} held-out task{'' if num_leaked == 1 else 's'} that the model was trained on."]


def _sizes(cycle: Cycle, spread: Spread, ks: list[int]) -> list[Needed]:
    """The size hoped for first: what was missing to the target, if the cycle has one."""
    target = (cycle.config.get("stop") or {}).get("target")
    before = (cycle.baseline.summary.get("avg") or {}).get("value") if cycle.baseline else None
    hoped = target - before if target and before is not None and target - before >= 0.005 else HOPED_FOR
    sizes = [hoped, *(size for size in SIZES if abs(size - hoped) > 1e-9)]
    return [Needed(size, [tasks_needed(spread, effect=size, k=k) for k in ks]) for size in sizes]


def _what_it_takes(hoped: Needed, k: int) -> str:
    number = hoped.by_k[0]
    if number is None:
        return f"To see a true change of {_size(hoped.effect)}, more than ten million such tasks would be needed."
    return (
        f"To see a true change of {_size(hoped.effect)} four times out of five, {number:,} such tasks × {k} attempts are needed."
    )


def _size(effect: float) -> str:
    return points(effect).removeprefix("+")
