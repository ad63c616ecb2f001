"""Numbers as people read them: a metric in four digits, seconds as minutes and hours, bytes as megabytes."""

from __future__ import annotations

import math

from django import template
from django.utils.timezone import now

from evsys_web.runs.models import TrainingRun
from recipes.estimate import Range

register = template.Library()


@register.filter
def short_number(value: float | None) -> str:
    """Four significant digits; what is not finite is said in words."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@register.filter
def metric_text(value: float | str | None) -> str:
    """A metric as JSON stores it: a number, or NaN and infinities by name."""
    return short_number(float(value)) if value is not None else "–"


@register.filter
def duration(seconds: float | None) -> str:
    """12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    if whole < 48 * 3600:
        return _two(whole // 3600, "h", whole % 3600 // 60, "min")
    return _two(whole // 86400, "d", whole % 86400 // 3600, "h")


@register.filter
def run_duration(run: TrainingRun) -> str:
    """From the first start to the end, or until now."""
    if run.started_at is None:
        return "–"
    return duration(((run.finished_at or now()) - run.started_at).total_seconds())


@register.filter
def count_range(found: Range) -> str:
    """Three digits of each end; one number where both are the same."""
    low, high = (_rounded(value) for value in found)
    return low if low == high else f"{low} to {high}"


@register.filter
def duration_range(found: Range) -> str:
    low, high = (duration(_coarse(value)) for value in found)
    return f"about {low}" if low == high else f"{low} to {high}"


@register.filter
def dollar_range(found: Range) -> str:
    """$1.20 to $3.50; what is less than a cent is not told apart."""
    if found.high < 0.01:
        return "under $0.01"
    if found.low < 0.005:
        return f"up to ${found.high:,.2f}"
    low, high = (f"${value:,.2f}" for value in found)
    return f"about {low}" if low == high else f"{low} to {high}"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"


def _rounded(value: float) -> str:
    if value < 1000:
        return f"{value:,.0f}"
    scale = 10 ** (len(str(int(value))) - 3)
    return f"{round(value / scale) * scale:,.0f}"


def _coarse(seconds: float) -> float:
    """An estimate to the second would claim too much: whole minutes from two minutes on, whole hours from ten hours on."""
    unit = 1 if seconds < 120 else 60 if seconds < 36000 else 3600
    return max(1, round(seconds / unit)) * unit
