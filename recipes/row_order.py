"""Which rows a step trains on, and which are held out: functions of seed and step alone, so a resume needs no saved order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from recipes.types import Array, Row

SPLIT_SEED = 1
"""Keeps the draw of held-out rows apart from the shuffles, which are seeded (seed, 0, epoch)."""


class Split(NamedTuple):
    """Both in the order of the rows."""

    train: list[Row]
    held_out: list[Row]


def num_batches(num_rows: int, batch_size: int) -> int:
    """Batches of one epoch; the last, smaller one counts."""
    return -(-num_rows // batch_size)


def rows_of_step(step_index: int, *, num_rows: int, batch_size: int, seed: int) -> list[int]:
    """Indices of a step's rows. Every epoch has an order of its own, and its last batch may be a small one."""
    epoch, position = divmod(step_index, num_batches(num_rows, batch_size))
    chosen: list[int] = _order(seed, epoch, num_rows)[position * batch_size : (position + 1) * batch_size].tolist()
    return chosen


def split_off(rows: Sequence[Row], share: float, seed: int) -> Split:
    """Hold out `share` of the rows by the seed; at least one row stays to train on."""
    num_held_out = min(len(rows) - 1, round(share * len(rows)))
    drawn = np.random.default_rng([seed, SPLIT_SEED]).permutation(len(rows))
    held_out = set(drawn[:num_held_out].tolist())
    kept = [row for index, row in enumerate(rows) if index not in held_out]
    return Split(kept, [rows[index] for index in sorted(held_out)])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_rows: int) -> Array:
    return np.random.default_rng([seed, 0, epoch]).permutation(num_rows)
