"""What a sweep will take before anything of it is made: the estimates of its runs, added up."""

from __future__ import annotations

from typing import NamedTuple

from evsys_web.accounts.models import User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.estimates import estimate_run
from recipes.config import RunConfig
from recipes.estimate import Estimate, Range, bills
from recipes.sweep_config import SweepConfig

NUM_ESTIMATED = 12
"""Of more combinations, as many stand for all: the page asks while somebody types."""


class SweepEstimate(NamedTuple):
    """None is "not known". seconds: of training alone, one run after the other. steps: of all runs. notes: of every
    run, and of all together."""

    num_runs: int
    num_combinations: int
    num_seeds: int
    steps: int | None
    tokens: Range | None
    seconds: Range | None
    dollars: Range | None
    notes: list[str]


def estimate_sweep(config: SweepConfig, version: DatasetVersion, user: User) -> SweepEstimate:
    """Raises ConfigError when the split is none of the version's."""
    runs, num_seeds = config.runs(), max(1, len(config.matrix.seeds))
    firsts = runs[::num_seeds]
    spaced = firsts[:: -(-len(firsts) // NUM_ESTIMATED)]
    found = [estimate_run(run.config, version, user) for run in spaced]
    scale = len(runs) / len(found)
    steps = [each.steps for each in found if each.steps is not None]
    return SweepEstimate(
        num_runs=len(runs),
        num_combinations=len(firsts),
        num_seeds=num_seeds,
        steps=round(sum(steps) * scale) if len(steps) == len(found) else None,
        tokens=_total([each.tokens for each in found], scale),
        seconds=_total([each.seconds for each in found], scale),
        dollars=_total([each.dollars for each in found], scale),
        notes=[*_shared_notes(found), *_billed_by_time([run.config for run in runs])],
    )


def _billed_by_time(runs: list[RunConfig]) -> list[str]:
    """What the note of a single run does not say: each orders a machine of its own."""
    billed = [run for run in runs if bills(run.backend.kind, run.backend_config())]
    hours = [found for run in billed if (found := run.billed_hours()) is not None]
    if not hours:
        return []
    return [
        f"Each run that is billed by the hour orders a machine of its own, {len(hours):,} in all: {sum(hours):g} hours at most."
    ]


def _total(ranges: list[Range | None], scale: float) -> Range | None:
    known = [each for each in ranges if each is not None]
    if len(known) < len(ranges):
        return None
    return Range(sum(each.low for each in known) * scale, sum(each.high for each in known) * scale)


def _shared_notes(found: list[Estimate]) -> list[str]:
    """What is said of every run."""
    return [note for note in found[0].notes if all(note in each.notes for each in found)]
