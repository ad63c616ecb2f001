"""Estimates and outcomes as people read them: shares in percent, differences in points, a task's attempts in a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from django import template

from evsys_web.evals.models import EvalRun, EvalTask
from evsys_web.runs.templatetags.run_numbers import short_number

register = template.Library()
BEFORE_UNIT = re.compile(r"(?<=\d) (?=%|points\b)")
UNBROKEN_DASH = "\N{NO-BREAK SPACE}–\N{WORD JOINER}\N{NO-BREAK SPACE}"
"""Without the joiner a line may end behind the dash."""
BETWEEN_ENDS = re.compile(r"(?<=\d) – (?=\d)")


@register.filter
def unbroken(text: str) -> str:
    """For pages, where no line may end between a number and its unit. Other readers get plain spaces."""
    return BETWEEN_ENDS.sub(UNBROKEN_DASH, BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text))


def on_pages(say: Callable[[Any], str]) -> Callable[[Any], str]:
    """Registers the filter so that a page has it unbroken."""
    register.filter(say.__name__, lambda value: unbroken(say(value)))
    return say


class Best(NamedTuple):
    """pass@k of the largest k there is."""

    k: int
    value: float
    low: float
    high: float


@on_pages
def percent(share: float | str | None) -> str:
    return "–" if share is None or isinstance(share, str) else f"{100 * share:.1f} %"


@on_pages
def points(difference: float | str | None) -> str:
    """A difference of shares, in percentage points with its sign."""
    return (
        "–"
        if difference is None or isinstance(difference, str)
        else f"{100 * difference:+.1f} points".replace("-", "\N{MINUS SIGN}")
    )


@on_pages
def interval(estimate: Any) -> str:
    low, high = _ends(estimate)
    return "" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f} %"


@on_pages
def points_interval(estimate: Any) -> str:
    low, high = _ends(estimate)
    text = "" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


@register.filter
def p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


@register.filter
def last_pass(summary: Any) -> Best | None:
    """pass@k of the largest k in a summary's JSON."""
    found = (summary or {}).get("pass_at") or {}
    if not found:
        return None
    k = max(found, key=int)
    return Best(int(k), found[k]["value"], found[k]["low"], found[k]["high"])


@register.filter
def outcome_badge(outcome: str) -> str:
    """The badge that colours an outcome; the word beside it says the same."""
    return {"solved": "good", "failed": "bad", "mixed": "accent", "error": "warn"}.get(outcome, "draft")


@register.filter
def num_made(run: EvalRun) -> int:
    """Attempts that came to an end, with a verdict or with an error."""
    return run.num_done + run.num_errors


@register.filter
def mean_reward(task: EvalTask) -> str:
    return short_number(task.sum_reward / task.n) if task.n else "–"


def _ends(estimate: Any) -> tuple[float | None, float | None]:
    """Of an Estimate or of its JSON."""
    if isinstance(estimate, dict):
        return estimate.get("low"), estimate.get("high")
    return getattr(estimate, "low", None), getattr(estimate, "high", None)
