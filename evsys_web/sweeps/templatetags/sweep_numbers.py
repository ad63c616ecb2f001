"""Mean and spread as people read them: the mean with as many digits as its spread leaves it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from django import template

from evsys_web.runs.templatetags.run_numbers import short_number
from recipes.sweep_config import Spread

register = template.Library()


@register.filter
def mean_and_deviation(spread: Spread | None) -> str:
    """`0.412 ± 0.018`; the mean alone for one run, NaN where a run diverged."""
    if spread is None:
        return "–"
    if spread.deviation is None or not math.isfinite(spread.mean):
        return short_number(spread.mean)
    if spread.deviation == 0:
        return f"{short_number(spread.mean)} ± 0"
    places = max(0, 1 - math.floor(math.log10(spread.deviation)))
    if places > 6:
        return f"{spread.mean:.5e} ± {spread.deviation:.1e}"
    return f"{spread.mean:,.{places}f} ± {spread.deviation:,.{places}f}"


@register.filter
def number_at(numbers: Mapping[int, int], key: int) -> Any:
    return numbers.get(key)
