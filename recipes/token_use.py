"""What an algorithm does with tokens, per row, so that its work can be counted before it is done."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    low: float
    high: float

    def plus(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def minus(self, other: Range) -> Range:
        """Never below 0."""
        return Range(max(0.0, self.low - other.high), max(0.0, self.high - other.low))

    def times(self, low: float, high: float | None = None) -> Range:
        """By a number, or from a smaller to a larger one."""
        return Range(self.low * low, self.high * (low if high is None else high))


NONE = Range(0.0, 0.0)


class TokenUse(NamedTuple):
    """Tokens of one row each time that it is seen. train: those that a gradient is taken over. prefill: read without one. sample:
    drawn. prefill_once: read without a gradient before the first step, once per row."""

    train: Range
    prefill: Range = NONE
    sample: Range = NONE
    prefill_once: Range = NONE
