"""Which tasks are held out for validation. A task's side depends on its id and the seed alone: more tasks, other runs or another
filter never move it across."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recipes.errors import ConfigError


def place_of(task_id: str, seed: int) -> float:
    """A number in [0, 1) from the task's id and the seed; the task is held out where it is below the fraction.

    >>> round(place_of("gsm8k-test-0000", 0), 6) == round(place_of("gsm8k-test-0000", 0), 6)
    True
    """
    digest = hashlib.blake2b(f"{seed}:{task_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def places_of(task_ids: Sequence[str], seed: int) -> NDArray[np.float64]:
    """`place_of` for each, (M,)."""
    return np.fromiter((place_of(task_id, seed) for task_id in task_ids), np.float64, len(task_ids))


def check_sides(num_train: int, num_validation: int, val_fraction: float) -> None:
    """num_…: tasks with rows on each side. Raises ConfigError when a fraction above 0 leaves a side empty."""
    if not val_fraction or (num_train and num_validation):
        return
    total = num_train + num_validation
    if not total:
        raise ConfigError("Nothing is left to hold out from: the filter and the selection leave no rows.", path=("val_fraction",))
    side = "training" if not num_train else "validation"
    tasks = "the only task with rows falls" if total == 1 else f"all {total:,} tasks with rows fall"
    raise ConfigError(
        f"A validation share of {val_fraction:g} leaves the {side} split empty: {tasks} on the other side. "
        f"Take a {'smaller' if not num_train else 'larger'} share, another seed, or a filter that keeps more tasks.",
        path=("val_fraction",),
    )
