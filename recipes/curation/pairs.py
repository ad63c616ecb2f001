"""Preference pairs of one task's attempts: a reply that passes against one that does not.

Both sides read the same prompt, and no reply stands on both: one that was judged right once and wrong once is neither. Of alike
conversations only the first counts. Attempts that ended in an error have no verdict and are no side either, even where they count
as wrong. Pairs come in rounds: each passing reply gets another failing one in every round, so that a cap takes from as many
different replies as it can. Nothing is drawn: the same attempts give the same pairs in the same order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recipes.curation.columns import Flags, Integers
from recipes.curation.pool import Pool, places_in_task


class Pairs(NamedTuple):
    """chosen, rejected: (R,) indices into the pool, in the order of rows. num_over_cap: (M,) pairs beyond the cap."""

    chosen: Integers
    rejected: Integers
    num_over_cap: Integers


def contradicted(pool: Pool, passing: Flags, failing: Flags) -> Flags:
    """(A,) attempts whose very conversation stands on the other side too, within their task."""
    found = np.zeros(len(pool), np.bool_)
    rows = np.flatnonzero(passing | failing)
    group = _groups(pool.task[rows], pool.digest[rows])
    num_passing, num_failing = (np.bincount(group, weights=side[rows]) for side in (passing, failing))
    found[rows] = ((num_passing > 0) & (num_failing > 0))[group]
    return found


def pair_up(pool: Pool, passing: Integers, failing: Integers, *, most: int) -> Pairs:
    """passing, failing: (P,), (F,) different usable attempts, each in the order of rows. most: pairs per task.

    In round r the i-th passing attempt of those that read one prompt meets failing attempt i + r of the same, counted around.
    """
    both = np.r_[passing, failing]
    group = _groups(pool.task[both], pool.prompt[both])
    of_passing, of_failing = group[: len(passing)], group[len(passing) :]
    num_groups = int(group.max(initial=-1)) + 1
    sizes_P, sizes_F = (np.bincount(ids, minlength=num_groups) for ids in (of_passing, of_failing))
    by_group = failing[np.argsort(of_failing, kind="stable")]
    starts = np.cumsum(sizes_F) - sizes_F
    place_P = _places(of_passing, sizes_P)
    chosen: list[Integers] = []
    rejected: list[Integers] = []
    num_pairs = np.zeros(pool.num_tasks, np.int64)
    for turn in range(most):  # a round gives every task that has pairs left at least one
        meets = np.flatnonzero((turn < sizes_F[of_passing]) & (num_pairs[pool.task[passing]] < most))
        if not len(meets):
            break
        groups = of_passing[meets]
        chosen.append(passing[meets])
        rejected.append(by_group[starts[groups] + (place_P[meets] + turn) % sizes_F[groups]])
        num_pairs += np.bincount(pool.task[passing[meets]], minlength=pool.num_tasks)
    ones, others = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (chosen, rejected))
    order = np.argsort(pool.task[ones], kind="stable")
    ones, others = ones[order], others[order]
    kept = places_in_task(pool.task[ones]) < most
    num_possible = np.bincount(pool.task[passing], weights=sizes_F[of_passing], minlength=pool.num_tasks).astype(np.int64)
    return Pairs(ones[kept], others[kept], np.maximum(num_possible - most, 0))


def _groups(task: Integers, key: Integers) -> Integers:
    """(R,) one number for each task and key."""
    order = np.lexsort((key, task))
    begins = np.r_[True, (np.diff(task[order]) != 0) | (np.diff(key[order]) != 0)][: len(order)]
    found = np.zeros(len(order), np.int64)
    found[order] = np.cumsum(begins) - 1
    return found


def _places(group: Integers, sizes: Integers) -> Integers:
    """(R,) 0, 1, … within each group, in the order given."""
    order = np.argsort(group, kind="stable")
    found = np.zeros(len(group), np.int64)
    found[order] = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group[order]]
    return found
