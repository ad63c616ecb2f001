"""Where a moved row stands: halfway between its new neighbours, so that a move writes one row however long the queue is."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

MOMENT = 1e-3
"""Seconds by which a row that is moved behind all others may stand in the future, where what comes later would overtake it."""


def new_places(places: Sequence[float], moved: int) -> dict[int, float]:
    """places: of rows in the order wanted, seconds since 1970 as `queue_place` has them, ascending but for the one at `moved`.
    Returns which of the rows get which place. Mostly the moved one alone; where its neighbours have no number between them (rows
    of one instant, or moved there some twenty times), as few around it as have room together."""
    first, end = moved, moved + 1
    while (spread := _spread(places, first, end)) is None:
        width = end - first
        first, end = max(0, first - width), min(len(places), end + width)
    return dict(zip(range(first, end), spread, strict=True))


def _spread(places: Sequence[float], first: int, end: int) -> list[float] | None:
    """Even places for the rows from `first` to before `end`, between those around them; None where there are not enough numbers:
    the more rows, the more room is asked for, so that it does not run out again at the next move."""
    count = end - first
    floor = places[first - 1] if first else None
    ceiling = places[end] if end < len(places) else max(time.time(), (floor or 0.0) + MOMENT)
    if floor is None:
        floor = ceiling - count - 1
    gap = (ceiling - floor) / (count + 1)
    if gap < 2 * count * math.ulp(ceiling):
        return None
    return [floor + gap * (number + 1) for number in range(count)]
