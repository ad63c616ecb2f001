"""What the held-out evals of a cycle say: each round against the model before training, and against the last that gained."""

from __future__ import annotations

from typing import Any, NamedTuple

from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.evals.models import EvalRun
from recipes.evals.metrics import TaskCount
from recipes.evals.statistics import Comparison, compare


class Judgement(NamedTuple):
    """`finding` has `baseline` and `reference`, each a comparison as `numbers_of` gives it or None where its eval is gone, and
    `reference_round`: 0 for the baseline. gained: the whole interval of the difference to the reference lies above zero."""

    finding: dict[str, Any]
    gained: bool


def judge(cycle: Cycle, round_: CycleRound) -> Judgement:
    """Compare the round's held-out eval, which is complete."""
    assert round_.judged is not None
    counts = _counts(round_.judged)
    last_gain: CycleRound | None = cycle.rounds.filter(number__lt=round_.number, gained=True).order_by("-number").first()
    baseline = _against(cycle.baseline, counts)
    reference = baseline if last_gain is None else _against(last_gain.judged, counts)
    low = reference["difference"]["low"] if reference and reference["difference"] else None
    finding = {"baseline": baseline, "reference": reference, "reference_round": last_gain.number if last_gain else 0}
    return Judgement(finding, gained=low is not None and low > 0)


def numbers_of(found: Comparison) -> dict[str, Any]:
    """A comparison without its lists of tasks, which may be thousands; how many there are instead."""
    numbers = found.as_json()
    return {
        **{name: value for name, value in numbers.items() if name not in ("newly_solved", "newly_broken")},
        "num_newly_solved": len(found.newly_solved),
        "num_newly_broken": len(found.newly_broken),
    }


def _against(before: EvalRun | None, after: dict[str, TaskCount]) -> dict[str, Any] | None:
    return numbers_of(compare(_counts(before), after)) if before is not None else None


def _counts(run: EvalRun) -> dict[str, TaskCount]:
    return {count.task_id: count for count in run.task_counts()}
