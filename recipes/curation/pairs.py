"""Preference pairs of one task's attempts: a reply that passes against one that does not.

Both sides read the same prompt, and no reply stands on both: one that was judged right once and wrong once is neither. Of alike
conversations only the first counts. Attempts that ended in an error have no verdict and are no side either, even where they count
as wrong. Pairs come in rounds: each passing reply gets another failing one in every round, so that a cap takes from as many
different replies as it can. Nothing is drawn: the same attempts give the same pairs in the same order.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from recipes.curation.columns import Flags, Integers
from recipes.curation.pool import Pool


class Pairs(NamedTuple):
    """chosen, rejected: (R,) indices into the pool, in the order of rows. num_over_cap: (M,) pairs beyond the cap."""

    chosen: Integers
    rejected: Integers
    num_over_cap: Integers


class _Side(NamedTuple):
    """Attempts of one task that read the same prompt, in their order."""

    passing: list[int]
    failing: list[int]


def contradicted(pool: Pool, passing: Flags, failing: Flags) -> Flags:
    """(A,) attempts whose very conversation stands on the other side too, within their task."""
    sides = []
    for side in (passing, failing):
        rows = np.flatnonzero(side)
        sides.append(set(zip(pool.task[rows].tolist(), pool.digest[rows].tolist(), strict=True)))
    both = sides[0] & sides[1]
    found = np.zeros(len(pool), np.bool_)
    if both:
        rows = np.flatnonzero(passing | failing)
        keys = zip(pool.task[rows].tolist(), pool.digest[rows].tolist(), strict=True)
        found[rows] = [key in both for key in keys]
    return found


def pair_up(pool: Pool, passing: Integers, failing: Integers, *, most: int) -> Pairs:
    """passing, failing: (P,), (F,) different usable attempts, each in the order of rows. most: pairs per task."""
    groups: dict[int, dict[int, _Side]] = defaultdict(dict)
    for attempts, is_passing in ((passing, True), (failing, False)):
        columns = (attempts, pool.task[attempts], pool.prompt[attempts])
        for attempt, task, prompt in zip(*(column.tolist() for column in columns), strict=True):
            side = groups[task].setdefault(prompt, _Side([], []))
            (side.passing if is_passing else side.failing).append(attempt)
    chosen: list[int] = []
    rejected: list[int] = []
    num_over_cap = np.zeros(pool.num_tasks, np.int64)
    for task in sorted(groups):
        sides = [side for side in groups[task].values() if side.passing and side.failing]
        num_possible = sum(len(side.passing) * len(side.failing) for side in sides)
        num_over_cap[task] = max(0, num_possible - most)
        for one, other in _rounds(sides, min(most, num_possible)):
            chosen.append(one)
            rejected.append(other)
    return Pairs(np.array(chosen, np.int64), np.array(rejected, np.int64), num_over_cap)


def _rounds(sides: list[_Side], num_pairs: int) -> list[tuple[int, int]]:
    """The first so many pairs. In round r the i-th passing reply of a prompt meets failing reply i + r, counted around."""
    found: list[tuple[int, int]] = []
    for turn in range(max((len(side.failing) for side in sides), default=0)):
        for side in sides:
            if turn < len(side.failing):
                for place, one in enumerate(side.passing):
                    found.append((one, side.failing[(place + turn) % len(side.failing)]))
        if len(found) >= num_pairs:
            break
    return found[:num_pairs]
