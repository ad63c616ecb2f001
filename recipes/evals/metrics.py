"""What k attempts per task add up to: avg, pass@k and pass^k, each with a 95 % interval clustered by task.

Every task weighs the same, however many of its attempts have a verdict. Attempts of one task are alike, so that 8 attempts
at 100 tasks are no 800 independent tries: a number is the mean over tasks, and its standard error the spread between tasks,
√(Σ(xᵢ − x̄)² / (m(m − 1))) for m tasks. With equal attempts this is the cluster-robust error of the pooled mean with the
usual m/(m − 1) correction (Miller 2024, "Adding error bars to evals").

Intervals of shares are Wilson's score interval for the number of independent tries that gives this standard error, x̄(1 − x̄)/se²
(never more than there are attempts), with Student's t of m − 1 degrees (Franco, Little, Louis & Slud 2019). They stay within
[0, 1]. Where all tasks are right, or all wrong, there is no spread to go by: the exact interval of m tries (Clopper & Pearson).
One task that is partly right says nothing about others: [0, 1].

An attempt that ended in an error is outside n unless asked for; a task without any verdict is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.evals.distributions import student_quantile
from recipes.rollouts import AttemptResult

CONFIDENCE = 0.95
UPPER = 0.5 + CONFIDENCE / 2
ALL_KS_UP_TO = 64
"""Up to so many attempts every k is given, beyond that about 40 of them, evenly spread on a logarithmic axis."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TaskCount:
    """What came of the attempts at one task. n: attempts with a verdict; num_correct of them right; sum_reward of their rewards;
    num_errors: attempts beside them that ended in an error."""

    task_id: str
    n: int
    num_correct: int
    sum_reward: float = 0.0
    num_errors: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.num_correct <= self.n or self.num_errors < 0:
            raise ValueError(
                f"Task {self.task_id}: {self.num_correct} of {self.n} right with {self.num_errors} errors cannot be."
            )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval. stderr is None for one task. low and high are None only for a mean reward (which has no
    bounds to fall back on) of one task, or of tasks that do not differ."""

    value: float
    low: float | None
    high: float | None
    stderr: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """num_tasks: tasks with a verdict, over which everything is averaged; num_tasks_left_out: those without one.
    num_attempts: attempts with a verdict; num_errors: those without.
    avg: share right; reward: mean reward. None while there is no verdict at all.
    pass_at, pass_hat: by k. num_short: by k, the tasks with fewer than k verdicts; their pass@k is "any right", their
    pass^k "all right"."""

    num_tasks: int
    num_tasks_left_out: int
    num_attempts: int
    num_errors: int
    avg: Estimate | None
    reward: Estimate | None
    pass_at: dict[int, Estimate]
    pass_hat: dict[int, Estimate]
    num_short: dict[int, int]

    def as_json(self) -> dict[str, Any]:
        """As JSON has it: the k are texts."""
        found = asdict(self)
        for name in ("pass_at", "pass_hat", "num_short"):
            found[name] = {str(k): value for k, value in found[name].items()}
        return found


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k attempts drawn from n, of which c are right, hold a right one: 1 − C(n−c, k)/C(n, k).
    Unbiased (Chen et al. 2021, "Evaluating large language models trained on code").
    With n < k: 1.0 when any is right, else 0.0. Exactly rounded. Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k."""
    _check(n, c, k)
    if n < k:
        return float(c > 0)
    ways = math.comb(n, k)
    return (ways - math.comb(n - c, k)) / ways


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Chance that k attempts drawn from n, of which c are right, are all right: C(c, k)/C(n, k) (Yao et al. 2024, tau-bench).
    With n < k: 1.0 when all are right, else 0.0. Exactly rounded. Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k."""
    _check(n, c, k)
    if n < k:
        return float(0 < n == c)
    return math.comb(c, k) / math.comb(n, k)


def _check(n: int, c: int, k: int) -> None:
    if not 0 <= c <= n or k < 1:
        raise ValueError(f"{c} right of {n} with k = {k}: 0 ≤ right ≤ attempts and k ≥ 1 are needed.")


def count_attempts(attempts: Iterable[AttemptResult]) -> list[TaskCount]:
    """One TaskCount per task, in the order tasks are first seen. An attempt without a verdict on right or wrong is an error."""
    found: dict[str, list[float]] = {}
    for attempt in attempts:
        sums = found.setdefault(attempt.task_id, [0, 0, 0.0, 0])
        if attempt.error is not None or attempt.is_correct is None:
            sums[3] += 1
            continue
        sums[0] += 1
        sums[1] += attempt.is_correct
        sums[2] += float(attempt.is_correct) if attempt.reward is None else attempt.reward
    return [
        TaskCount(task_id, int(n), int(num_correct), reward, int(num_errors))
        for task_id, (n, num_correct, reward, num_errors) in found.items()
    ]


def summarise(counts: Sequence[TaskCount], *, ks: Sequence[int] | None = None, errors_are_wrong: bool = False) -> Summary:
    """Everything one eval run adds up to. ks: those to give; None gives 1 … the largest n (see ALL_KS_UP_TO).
    errors_are_wrong: count an attempt that ended in an error as a wrong one with reward 0."""
    total = len(counts)
    n = np.fromiter((count.n for count in counts), np.int64, total)
    errors = np.fromiter((count.num_errors for count in counts), np.int64, total)
    correct = np.fromiter((count.num_correct for count in counts), np.int64, total)
    rewards = np.fromiter((count.sum_reward for count in counts), np.float64, total)
    if errors_are_wrong:
        n = n + errors
    kept = n > 0
    n, correct, rewards = n[kept], correct[kept], rewards[kept]
    num_attempts = int(n.sum())
    if ks is None:
        ks = default_ks(int(n.max(initial=0)))
    elif any(k < 1 for k in ks):
        raise ValueError("Every k must be at least 1.")
    wanted = sorted(set(ks)) if num_attempts else []
    pairs, inverse = np.unique(np.stack([n, correct], axis=1), axis=0, return_inverse=True)
    any_right = dict(_any_right(pairs[:, 0], pairs[:, 1], wanted))
    all_right = dict(_all_right(pairs[:, 0], pairs[:, 1], wanted))
    inverse = inverse.reshape(-1)
    return Summary(
        num_tasks=len(n),
        num_tasks_left_out=total - len(n),
        num_attempts=num_attempts,
        num_errors=int(errors.sum()),
        avg=share_estimate(correct / n, num_attempts) if num_attempts else None,
        reward=mean_estimate(rewards / n) if num_attempts else None,
        pass_at={k: share_estimate(any_right[k][inverse], num_attempts) for k in wanted},
        pass_hat={k: share_estimate(all_right[k][inverse], num_attempts) for k in wanted},
        num_short={k: int((n < k).sum()) for k in wanted},
    )


def default_ks(most: int) -> list[int]:
    """The k of a curve for up to `most` attempts per task."""
    if most <= ALL_KS_UP_TO:
        return list(range(1, most + 1))
    return sorted({round(k) for k in np.geomspace(1, most, 48).tolist()})


def pass_at_per_task(n: NDArray[np.int64], correct: NDArray[np.int64], ks: Sequence[int]) -> dict[int, Floats]:
    """pass@k of each task, by k; n and correct are (M,). As `pass_at_k`, within 1e-12."""
    return dict(_any_right(n, correct, ks))


def _any_right(n: NDArray[np.int64], correct: NDArray[np.int64], ks: Sequence[int]) -> Iterable[tuple[int, Floats]]:
    for k, none_right in _drawn_alike(n, n - correct, ks):
        yield k, np.where(n < k, correct > 0, 1.0 - none_right)


def _all_right(n: NDArray[np.int64], correct: NDArray[np.int64], ks: Sequence[int]) -> Iterable[tuple[int, Floats]]:
    for k, all_right in _drawn_alike(n, correct, ks):
        yield k, np.where(n < k, correct == n, all_right)


def _drawn_alike(n: NDArray[np.int64], of_a_kind: NDArray[np.int64], ks: Sequence[int]) -> Iterable[tuple[int, Floats]]:
    """C(of_a_kind, k)/C(n, k) for rising k, as the product of (of_a_kind − j)/(n − j): no binomial that could overflow."""
    share = np.ones(len(n))
    wanted = set(ks)
    for drawn in range(max(wanted, default=0)):
        share = share * np.maximum(of_a_kind - drawn, 0) / np.maximum(n - drawn, 1)
        if drawn + 1 in wanted:
            yield drawn + 1, share


def share_estimate(per_task: Floats, num_attempts: int) -> Estimate:
    """Mean of M ≥ 1 shares within [0, 1], one per task, that stem from num_attempts attempts; interval as the module says."""
    num_tasks = len(per_task)
    value = min(max(float(per_task.mean()), 0.0), 1.0)
    stderr = _standard_error(per_task)
    if value in (0.0, 1.0):
        margin = 1.0 - (1.0 - UPPER) ** (1.0 / num_tasks)
        return Estimate(value, 0.0 if value == 0.0 else 1.0 - margin, margin if value == 0.0 else 1.0, stderr)
    if stderr is None:
        return Estimate(value, 0.0, 1.0, None)
    variance = value * (1.0 - value)
    tries = min(variance / stderr**2, num_attempts) if stderr > 0.0 else float(num_attempts)
    square = student_quantile(UPPER, num_tasks - 1) ** 2
    centre = (value + square / (2 * tries)) / (1 + square / tries)
    half = math.sqrt(square * variance / tries + square**2 / (4 * tries**2)) / (1 + square / tries)
    return Estimate(value, max(centre - half, 0.0), min(centre + half, 1.0), stderr)


def mean_estimate(per_task: Floats) -> Estimate:
    """Mean of M ≥ 1 unbounded numbers, one per task, with Student's interval of M − 1 degrees of freedom."""
    value, stderr = float(per_task.mean()), _standard_error(per_task)
    if not stderr:
        return Estimate(value, None, None, stderr)
    half = student_quantile(UPPER, len(per_task) - 1) * stderr
    return Estimate(value, value - half, value + half, stderr)


def _standard_error(per_task: Floats) -> float | None:
    """Of the mean over tasks; None for one task, 0.0 exactly when all are alike."""
    if len(per_task) < 2:
        return None
    if per_task.min() == per_task.max():
        return 0.0
    return float(per_task.std(ddof=1)) / math.sqrt(len(per_task))
