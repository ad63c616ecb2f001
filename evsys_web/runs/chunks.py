"""How a folded stretch of points looks as bytes, and how many points become few. Arrays only; knows no table.

A stretch is up to a thousand rows. Its axes (seq, step, time) are stored once and shared by its keys. A key that is in every row
is its float64 values; one that is in some rows is their uint32 positions, then the values. Consecutive integers take no bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_MARKERS = 200


class Column(NamedTuple):
    """The values of one key, and in which rows of the stretch they stand: both (N,)."""

    positions: Ints
    values: Floats


def encode_integers(values: Ints) -> bytes:
    """Empty for consecutive integers: the first one and the count say it all."""
    consecutive = np.array_equal(values, np.arange(values[0], values[0] + len(values)))
    return b"" if consecutive else values.astype("<i8").tobytes()


def decode_integers(data: bytes, *, first: int, count: int) -> Ints:
    return np.frombuffer(data, "<i8") if data else np.arange(first, first + count, dtype=np.int64)


def encode_column(column: Column, *, num_rows: int) -> bytes:
    values = column.values.astype("<f8").tobytes()
    return values if len(column.values) == num_rows else column.positions.astype("<u4").tobytes() + values


def decode_column(data: bytes, *, count: int) -> Column:
    values = np.frombuffer(data, "<f8", count, offset=len(data) - 8 * count)
    if len(data) == 8 * count:
        return Column(np.arange(count, dtype=np.int64), values)
    return Column(np.frombuffer(data, "<u4", count).astype(np.int64), values)


class Marker(NamedTuple):
    """A point that is no finite number."""

    x: float
    value: str


@dataclass(frozen=True, slots=True)
class Series:
    """One curve, at most as many points as asked for. Per bucket: x and y of its last point, smallest and largest finite y.

    count: how many points there are in truth. non_finite: the first MAX_MARKERS of `num_non_finite` NaN or infinite points.
    """

    x: Floats
    y_last: Floats
    y_min: Floats
    y_max: Floats
    count: int
    non_finite: list[Marker] = field(default_factory=list)
    num_non_finite: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; what is not finite is the string "NaN", "Infinity" or "-Infinity"."""
        return {
            "x": self.x.tolist(),
            "y": plain_list(self.y_last),
            "min": plain_list(self.y_min),
            "max": plain_list(self.y_max),
            "count": self.count,
            "non_finite": [marker._asdict() for marker in self.non_finite],
            "num_non_finite": self.num_non_finite,
        }


def downsample(x: Floats, y: Floats, max_points: int) -> Series:
    """At most `max_points` buckets of equally many points. A spike of one point survives in y_min or y_max."""
    if len(x) and np.any(x[1:] < x[:-1]):
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    finite = np.isfinite(y)
    odd = np.flatnonzero(~finite)
    markers = [Marker(float(x[index]), str(plain(float(y[index])))) for index in odd[:MAX_MARKERS]]
    if len(y) <= max_points:
        bounded = np.where(finite, y, np.nan)
        return Series(x, y, bounded, bounded, len(y), markers, len(odd))
    edges = np.linspace(0, len(y), max_points + 1).astype(np.int64)
    starts, last = edges[:-1], edges[1:] - 1
    low = np.minimum.reduceat(np.where(finite, y, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, y, -np.inf), starts)
    empty = low > high
    low[empty] = high[empty] = np.nan
    return Series(x[last], y[last], low, high, len(y), markers, len(odd))


def plain(value: float) -> float | str:
    """JSON has no NaN and no infinity, and a browser refuses what Python would write for them."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain_list(values: Floats) -> list[float | str]:
    listed: list[float | str] = values.tolist()
    for index in np.flatnonzero(~np.isfinite(values)):
        listed[index] = plain(float(values[index]))
    return listed
