"""What the held-out evals of a cycle say: each round against the model before training, and against the last that gained."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.evals.comparison import RunsCompared
from evsys_web.evals.models import EvalRun


class Judgement(NamedTuple):
    """`finding` has `baseline` and `reference`, each the numbers of a comparison, with the `spread` that sample sizes are
    reckoned from, or None where its eval is gone; and `reference_round`, 0 for the baseline. gained: the whole interval of the
    difference to the reference lies above zero."""

    finding: dict[str, Any]
    gained: bool


def judge(cycle: Cycle, round_: CycleRound) -> Judgement:
    """Compare the round's held-out eval, which is complete."""
    last_gain: CycleRound | None = cycle.rounds.filter(number__lt=round_.number, gained=True).order_by("-number").first()
    baseline = _against(cycle.baseline, round_.judged)
    reference = baseline if last_gain is None else _against(last_gain.judged, round_.judged)
    low = reference["difference"]["low"] if reference and reference["difference"] else None
    finding = {"baseline": baseline, "reference": reference, "reference_round": last_gain.number if last_gain else 0}
    return Judgement(finding, gained=low is not None and low > 0)


def _against(before: EvalRun | None, after: EvalRun | None) -> dict[str, Any] | None:
    """The comparison with how many tasks are newly solved and broken in the place of their lists, which may be long."""
    if before is None or after is None:
        return None
    compared = RunsCompared(before, after)
    found = compared.comparison
    numbers = {name: value for name, value in found.as_json().items() if name not in ("newly_solved", "newly_broken")}
    return {
        **numbers,
        "num_newly_solved": len(found.newly_solved),
        "num_newly_broken": len(found.newly_broken),
        "num_leaked": compared.num_leaked,
        "spread": asdict(compared.spread) if compared.spread else None,
    }
