"""When a cycle has done enough: its stop rule, applied to what it has found and spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evsys_web.cycles.models import Cycle, Reason
from evsys_web.evals.models import EvalRun
from recipes.cycle_config import CycleConfig, StopRule


class Stopped(NamedTuple):
    reason: Reason
    sentence: str


def budget_spent(cycle: Cycle) -> Stopped | None:
    """Whether what the finished parts took is all there was."""
    rule = cycle.load_config().stop
    if rule.max_tokens is not None and cycle.num_tokens >= rule.max_tokens:
        return Stopped(Reason.BUDGET, f"{cycle.num_tokens:,} tokens are spent, of {rule.max_tokens:,}.")
    hours = cycle.num_seconds / 3600
    if rule.max_hours is not None and hours >= rule.max_hours:
        return Stopped(Reason.BUDGET, f"{hours:,.2f} hours are spent, of {rule.max_hours:g}.")
    return None


def target_reached(judged: EvalRun, rule: StopRule) -> Stopped | None:
    found = judged.summary.get("avg")
    if rule.target is None or found is None or found["value"] < rule.target:
        return None
    return Stopped(Reason.TARGET, f"{found['value']:.1%} of the held-out attempts are right; the target was {rule.target:.1%}.")


def rounds_done(config: CycleConfig, gains: Sequence[bool | None]) -> Stopped | None:
    """gains: of every judged round in order, whether it gained."""
    num_without = next((n for n, gained in enumerate(reversed(gains)) if gained), len(gains))
    if config.stop.patience is not None and num_without >= config.stop.patience:
        rounds = "round" if num_without == 1 else "rounds in a row"
        return Stopped(Reason.NO_GAIN, f"No gain could be seen for {num_without} {rounds}.")
    if len(gains) >= config.rounds:
        return Stopped(Reason.ROUNDS, f"{len(gains)} of {config.rounds} rounds are done.")
    return None
