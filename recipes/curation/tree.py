"""What a filter is once it is read: a tree of our own, what its values can be, and its text again.

Nodes are plain values: two trees are equal when they mean the same, however they were typed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from recipes.curation.tokens import K_BEHIND_A_NAME, MAX_LENGTH, token_at

INFINITY = math.inf


class Bounds(NamedTuple):
    low: float
    high: float


NAMES: dict[str, tuple[Bounds, str]] = {
    "n": (Bounds(1.0, INFINITY), "attempts with a verdict"),
    "n_correct": (Bounds(0.0, INFINITY), "attempts that are right"),
    "solved": (Bounds(0.0, 1.0), "true when any attempt is right"),
    "avg": (Bounds(-INFINITY, INFINITY), "mean of the metric"),
    "best": (Bounds(-INFINITY, INFINITY), "largest value of the metric"),
    "worst": (Bounds(-INFINITY, INFINITY), "smallest value of the metric"),
    "pass": (Bounds(0.0, 1.0), "pass@k: chance that k attempts drawn from the n hold a right one"),
}
"""What a filter may ask of a task: its bounds, and what it is. n is at least 1: tasks without attempts are not asked."""
WITH_K = ("pass", "avg", "best", "worst")
WORDS = ("and", "or", "not", "true", "false", "True", "False")


class Operator(StrEnum):
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    EQUAL = "=="
    UNEQUAL = "!="
    PLUS = "+"
    MINUS = "-"
    TIMES = "*"
    BY = "/"


COMPARISONS = frozenset(("<", "<=", ">", ">=", "==", "!="))


@dataclass(frozen=True, slots=True)
class Number:
    value: float
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Flag:
    value: bool


@dataclass(frozen=True, slots=True)
class Name:
    """k is None but for name@k."""

    name: str
    k: int | None = None


@dataclass(frozen=True, slots=True)
class Negative:
    operand: Node


@dataclass(frozen=True, slots=True)
class Not:
    operand: Node


class Step(NamedTuple):
    operator: Operator
    operand: Node


@dataclass(frozen=True, slots=True)
class Product:
    first: Node
    rest: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    first: Node
    rest: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Chained as in Python: every neighbouring pair must hold."""

    first: Node
    rest: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Node, ...]


Node = Number | Flag | Name | Negative | Not | Product | Sum | Comparison | And | Or


# what a divisor can be


def bounds_of(node: Node, known: dict[int, Bounds]) -> Bounds:
    """What the value can be over all tasks. known: found before, by the id of the node."""
    bounds = known.get(id(node))
    if bounds is None:
        bounds = known[id(node)] = _bounds_of(node, known)
    return bounds


def _bounds_of(node: Node, known: dict[int, Bounds]) -> Bounds:
    if isinstance(node, Number | Flag):
        return Bounds(float(node.value), float(node.value))
    if isinstance(node, Name):
        return NAMES[node.name][0]
    if isinstance(node, Negative):
        low, high = bounds_of(node.operand, known)
        return Bounds(-high, -low)
    if isinstance(node, And | Or):
        parts = [bounds_of(part, known) for part in node.parts]
        return Bounds(min(part.low for part in parts), max(part.high for part in parts))
    if isinstance(node, Sum | Product):
        bounds = bounds_of(node.first, known)
        for operator, operand in node.rest:
            bounds = _combined(operator, bounds, bounds_of(operand, known))
        return bounds
    return Bounds(0.0, 1.0)


def _combined(operator: Operator, left: Bounds, right: Bounds) -> Bounds:
    if operator is Operator.PLUS:
        ends = [left.low + right.low, left.high + right.high]
    elif operator is Operator.MINUS:
        ends = [left.low - right.high, left.high - right.low]
    elif operator is Operator.TIMES:
        ends = [a * b for a in left for b in right]
    else:
        ends = [a / b for a in left for b in right]
    if any(math.isnan(end) for end in ends):
        return Bounds(-INFINITY, INFINITY)
    return Bounds(min(ends), max(ends))


# tree → text


def printed(node: Node) -> str:
    """The tree as text that parses to the same tree, in one spelling. Never longer than MAX_LENGTH for a tree that was parsed."""
    text = _printed(node, 0)
    return text if len(text) <= MAX_LENGTH else "".join(_tight(text))


def _printed(node: Node, least: int) -> str:
    """In parentheses where it binds less than `least`."""
    if isinstance(node, Number):
        return node.text or f"{node.value:.15g}"
    if isinstance(node, Flag):
        return str(node.value).lower()
    if isinstance(node, Name):
        return node.name if node.k is None else f"{node.name}@{node.k}"
    if isinstance(node, Negative):
        return f"-{_printed(node.operand, 6)}"
    if isinstance(node, Not):
        text, level = f"not {_printed(node.operand, 3)}", 3
    elif isinstance(node, Or):
        text, level = " or ".join([_printed(part, 2) for part in node.parts]), 1
    elif isinstance(node, And):
        text, level = " and ".join([_printed(part, 3) for part in node.parts]), 2
    else:
        level = 3 if isinstance(node, Comparison) else 4 if isinstance(node, Sum) else 5
        steps = [f" {operator} {_printed(operand, level + 1)}" for operator, operand in node.rest]
        text = _printed(node.first, level + 1) + "".join(steps)
    return text if level >= least else f"({text})"


def _tight(text: str) -> Iterator[str]:
    """The tokens, with spaces only between words."""
    position, behind_word = 0, False
    while (token := token_at(text, position)).kind != "end":
        position = token.start + len(token.text)
        whole = token.text
        if found := K_BEHIND_A_NAME.match(text, position):
            whole, position = text[token.start : found.end()], found.end()
        yield f" {whole}" if behind_word and token.kind != "sign" else whole
        behind_word = token.kind == "word"
