"""What a filter means: one tree over the aggregates of one task's attempts. The evaluator over columns is held to this one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from recipes.curation.grammar import parse
from recipes.curation.tree import (
    And,
    Comparison,
    Flag,
    Name,
    Negative,
    Node,
    Not,
    Number,
    Operator,
    Or,
    Product,
    Sum,
    printed,
)
from recipes.errors import DataError
from recipes.evals.metrics import pass_at_k

VERDICT_METRICS = ("is_correct", "reward")

COMPARE: dict[Operator, Callable[[Any, Any], Any]] = {
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
}
COMPUTE: dict[Operator, Callable[[Any, Any], Any]] = {
    Operator.PLUS: operator.add,
    Operator.MINUS: operator.sub,
    Operator.TIMES: operator.mul,
    Operator.BY: operator.truediv,
}


class Judged(Protocol):
    """What a filter reads of an attempt. One with a true `error`, or with is_correct None, has no verdict."""

    @property
    def reward(self) -> float | None: ...
    @property
    def is_correct(self) -> bool | None: ...
    @property
    def signals(self) -> Mapping[str, Any]: ...


class Score(NamedTuple):
    """An attempt that counts: whether it is right, and its metric."""

    is_correct: bool
    value: float


def metric_name(metric: str) -> str:
    """`correct` is rLLM's other name for is_correct."""
    return "is_correct" if metric == "correct" else metric


def has_verdict(attempt: Judged) -> bool:
    return attempt.is_correct is not None and not getattr(attempt, "error", None)


def score_of(attempt: Judged, metric: str = "is_correct", *, include_errors: bool = False) -> Score | None:
    """None for an attempt outside n: without a verdict, unless errors are included (then wrong, with 0), or without the metric,
    that is a signal which is absent, null or not finite. A verdict without reward earns 1 or 0."""
    if not has_verdict(attempt):
        return Score(False, 0.0) if include_errors else None
    is_correct = bool(attempt.is_correct)
    metric = metric_name(metric)
    if metric == "is_correct" or (metric == "reward" and attempt.reward is None):
        return Score(is_correct, float(is_correct))
    value = finite(attempt.reward if metric == "reward" else attempt.signals.get(metric))
    return None if math.isnan(value) else Score(is_correct, value)


def finite(value: Any) -> float:
    """A number as float, NaN for whatever is none."""
    if not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


class Aggregates(NamedTuple):
    """Of n ≥ 1 attempts that count: how many are right, and the exactly rounded mean, the largest and the smallest metric."""

    n: int
    n_correct: int
    avg: float
    best: float
    worst: float

    def of(self, name: Name) -> float:
        """The value of a name. avg@k, best@k, worst@k are avg, best, worst; pass@k is any-success when n < k."""
        if name.name == "pass":
            return pass_at_k(self.n, self.n_correct, name.k or 1)
        if name.name == "solved":
            return float(self.n_correct > 0)
        return float(getattr(self, name.name))


def aggregate(scores: Iterable[Score]) -> Aggregates | None:
    """None when no attempt counts."""
    counted = list(scores)
    if not counted:
        return None
    values = [score.value for score in counted]
    mean = float(sum(map(Fraction, values)) / len(values))
    return Aggregates(len(values), sum(score.is_correct for score in counted), mean, max(values), min(values))


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """A filter that was understood. text: as it was written; str() gives the one spelling of its tree."""

    text: str
    tree: Node

    def __str__(self) -> str:
        return printed(self.tree)

    def matches(self, attempts: Iterable[Judged], *, metric: str = "is_correct", include_errors: bool = False) -> bool:
        """Whether a task with these attempts survives; False when none of them has a verdict.
        Raises DataError when attempts have one and none of those has the metric."""
        attempts = list(attempts)
        scores = [score_of(attempt, metric, include_errors=include_errors) for attempt in attempts]
        aggregates = aggregate(score for score in scores if score is not None)
        if aggregates is not None:
            return self.holds(aggregates)
        if any(map(has_verdict, attempts)):
            raise absent_metric(metric, {name for attempt in attempts for name in attempt.signals})
        return False

    def holds(self, aggregates: Aggregates) -> bool:
        return bool(value_of(self.tree, aggregates))

    def explain(self, aggregates: Aggregates) -> str:
        """Why a task is out, or that it is in: the first condition that fails, and what the names in it are.

        >>> compile_filter("0 < avg < 1 and n >= 4").explain(Aggregates(n=4, n_correct=4, avg=1.0, best=1.0, worst=1.0))
        'avg < 1 fails: avg is 1'
        """
        failing = next(_failing(self.tree, aggregates), None)
        node = self.tree if failing is None else failing
        facts = ", ".join(f"{printed(name)} is {aggregates.of(name):.4g}" for name in dict.fromkeys(names_in(node)))
        outcome = f"{printed(node)} {'holds' if failing is None else 'fails'}"
        return f"{outcome}: {facts}" if facts else outcome


@lru_cache(maxsize=256)
def compile_filter(text: str) -> CompiledFilter:
    """Understand a filter before any task is looked at. Raises FilterError with the position of the first mistake.

    >>> from recipes.rollouts import AttemptResult
    >>> attempts = [AttemptResult("t", 0, 1.0, True), AttemptResult("t", 1, 0.0, False)]
    >>> [compile_filter(text).matches(attempts) for text in ("0 < avg < 1", "pass@2 == 1", "not solved", "n >= 4")]
    [True, True, False, False]
    """
    return CompiledFilter(text, parse(text))


def value_of(node: Node, aggregates: Aggregates) -> float:
    """The value of a tree for one task, as the grammar says it; truth is 1.0 and 0.0."""
    if isinstance(node, Number | Flag):
        return float(node.value)
    if isinstance(node, Name):
        return aggregates.of(node)
    if isinstance(node, Negative):
        return -value_of(node.operand, aggregates)
    if isinstance(node, Not):
        return float(not value_of(node.operand, aggregates))
    if isinstance(node, And | Or):
        value = value_of(node.parts[0], aggregates)
        for part in node.parts[1:]:
            if bool(value) is isinstance(node, Or):
                break
            value = value_of(part, aggregates)
        return value
    value = value_of(node.first, aggregates)
    for step in node.rest:
        other = value_of(step.operand, aggregates)
        if isinstance(node, Comparison):
            if not COMPARE[step.operator](value, other):
                return 0.0
            value = other
        else:
            value = COMPUTE[step.operator](value, other)
    return 1.0 if isinstance(node, Comparison) else value


def names_in(node: Node) -> Iterator[Name]:
    """Every name, in the order of the text."""
    if isinstance(node, Name):
        yield node
    elif isinstance(node, Negative | Not):
        yield from names_in(node.operand)
    elif isinstance(node, And | Or):
        for part in node.parts:
            yield from names_in(part)
    elif isinstance(node, Sum | Product | Comparison):
        yield from names_in(node.first)
        for step in node.rest:
            yield from names_in(step.operand)


def _failing(node: Node, aggregates: Aggregates) -> Iterator[Node]:
    """The parts of a conjunction that do not hold; of a chained comparison, its links."""
    if value_of(node, aggregates):
        return
    if isinstance(node, And):
        for part in node.parts:
            yield from _failing(part, aggregates)
    elif isinstance(node, Comparison) and len(node.rest) > 1:
        firsts = [node.first, *(step.operand for step in node.rest)]
        for first, step in zip(firsts, node.rest, strict=False):
            yield from _failing(Comparison(first, (step,)), aggregates)
    else:
        yield node


def absent_metric(metric: str, signals: Iterable[str]) -> DataError:
    """The refusal of a metric that no attempt has."""
    known = [*VERDICT_METRICS, *sorted(signals)]
    listed = ", ".join(name[:60] for name in known[:12]) + (", …" if len(known) > 12 else "")
    return DataError(
        f"No attempt has the metric {metric[:60]!r}. There are {listed}.",
        field="metric",
        found=metric,
        expected=f"one of {listed}",
    )
