"""How many tasks, and attempts at each, would show a change of a given size: the minimum detectable effect turned round.

Miller 2024, "Adding error bars to evals", section 5: with n tasks, K attempts at each by both models, and a true difference δ,

    n = (z(1 − α/2) + z(power))² · (ω² + (σ²_A + σ²_B)/K) / δ²

where ω² is the variance between tasks of the true difference per task, which more attempts do not lessen, σ² the mean variance
of one attempt at a task, which they do. Both are taken from the two eval runs at hand. Departing from the paper, z is Student's t
of n − 1 degrees, as in the minimum detectable effect: for few tasks z promises too much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recipes.evals.distributions import student_quantile
from recipes.evals.metrics import UPPER, TaskCount
from recipes.evals.statistics import POWER

MOST_TASKS = 10_000_000


@dataclass(frozen=True, slots=True)
class Spread:
    """between: ω², variance between tasks of the difference that would be left with endless attempts. within: σ²_A + σ²_B, mean
    over tasks of the variance of one attempt, summed over both runs. Both of shares within [0, 1]."""

    between: float
    within: float

    def of_mean(self, num_tasks: int, k: int) -> float:
        """Standard error of the mean difference over so many tasks with k attempts in both runs."""
        return math.sqrt((self.between + self.within / k) / num_tasks)


def spread_of(a: Mapping[str, TaskCount], b: Mapping[str, TaskCount]) -> Spread | None:
    """From the tasks with a verdict in both runs. None where there are fewer than two, or no task with two verdicts in both
    tells how much attempts differ, or nothing differs at all."""
    common = [(a[task_id], b[task_id]) for task_id in a if a[task_id].n and task_id in b and b[task_id].n]
    if len(common) < 2:
        return None
    n = np.array([[before.n, after.n] for before, after in common], np.float64)
    share = np.array([[before.num_correct, after.num_correct] for before, after in common], np.float64) / n
    observed = float(np.var(share[:, 1] - share[:, 0], ddof=1))
    twice = (n >= 2).all(axis=1)
    if not twice.any():
        return Spread(observed, 0.0) if observed else None  # one attempt at each: the two cannot be told apart
    # c(n − c)/(n(n − 1)) is the unbiased variance of one attempt; divided by n, that of the share it is seen in.
    of_one = share * (1 - share) * n / np.maximum(n - 1, 1)
    within = float(of_one[twice].sum(axis=1).mean())
    noise = float((of_one / n)[twice].sum(axis=1).mean())
    spread = Spread(max(observed - noise, 0.0), within)
    return spread if spread.between or spread.within else None


def tasks_needed(spread: Spread, *, effect: float, k: int) -> int | None:
    """Fewest tasks at which a true difference of `effect`, within (0, 1], is found with 80 % power at the 5 % level, given k
    attempts at each by both models. None beyond MOST_TASKS."""
    if not 0 < effect <= 1 or k < 1:
        raise ValueError(f"An effect of {effect} with k = {k}: 0 < effect ≤ 1 and k ≥ 1 are needed.")
    low, high = 1, 2
    while not _finds(spread, effect, k, high):
        low, high = high, high * 2
        if low > MOST_TASKS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _finds(spread, effect, k, middle) else (middle, high)
    return high


def detectable(spread: Spread, *, num_tasks: int, k: int) -> float:
    """The smallest true difference that num_tasks ≥ 2 find, in the same sense; at most 1."""
    quantiles = student_quantile(UPPER, num_tasks - 1) + student_quantile(POWER, num_tasks - 1)
    return min(quantiles * spread.of_mean(num_tasks, k), 1.0)


def _finds(spread: Spread, effect: float, k: int, num_tasks: int) -> bool:
    return detectable(spread, num_tasks=num_tasks, k=k) <= effect
