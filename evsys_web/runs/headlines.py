"""The one number of a run that lists and headers show: its algorithm says which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from evsys_web.runs import metrics
from evsys_web.runs.models import TrainingRun
from recipes.errors import ConfigError
from recipes.registry import algorithms
from recipes.types import Headline

LOSS = Headline("train/mean_nll", "Loss")
"""Of runs that were trained elsewhere, or by an algorithm that does not say or is not installed any more."""


class Listed(NamedTuple):
    """value: the last one; None before there is one."""

    run: TrainingRun
    headline: Headline
    value: float | None


def headline_of(run: TrainingRun) -> Headline:
    try:
        headline: Headline = getattr(algorithms.get(run.algorithm), "headline", LOSS)
    except ConfigError:
        return LOSS
    return headline


def with_headlines(runs: Sequence[TrainingRun]) -> list[Listed]:
    """In two queries, however many runs there are."""
    headlines = {run.pk: headline_of(run) for run in runs}
    found = metrics.last_values({pk: headline.key for pk, headline in headlines.items()})
    return [Listed(run, headlines[run.pk], found.get(run.pk)) for run in runs]


def chart_order(keys: Iterable[str], headlines: Iterable[Headline] = (LOSS,)) -> list[str]:
    """By group, headlines first; which group comes first is the page's business."""
    first = {headline.key for headline in headlines}
    return sorted(keys, key=lambda key: (key.partition("/")[0], key not in first, key))
