"""Two eval runs on their common tasks: how far apart, how sure, and which tasks changed.

Both runs met the same tasks, so that the comparison is paired: one difference per task, d = b − a, and everything follows from
their mean and spread, which leaves the difficulty of the tasks out (Miller 2024, "Adding error bars to evals"). A positive
difference means that b is better.

The p-value is that of the sign-flip permutation test: were the runs alike, each d could as well have been −d. For equal
attempts all 2^m flips are counted exactly (differences are fractions with a common denominator, so that the sums lie on a grid
and their distribution is a convolution of binomials); with one attempt per task this is the exact sign test, McNemar's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.evals.distributions import student_quantile
from recipes.evals.metrics import UPPER, Estimate, Floats, TaskCount, default_ks, pass_at_per_task

POWER = 0.8
MAX_GRID = 2**21
"""More grid points than this would make the exact test slow; then flips are drawn."""
NUM_DRAWS = 20_000
FINEST_P = 1e-12
"""Below it the exact p-value is lost in rounding, and this is given instead."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """b against a on `num_common` tasks with a verdict in both; num_only_a and num_only_b tasks have one in the other only.

    difference: of avg, b − a, within [−1, 1]. pass_at: differences of pass@k over the tasks with k verdicts in both, of which
    there are pass_at_tasks[k]. p_value: two-sided; None without common tasks. method: the test in words.
    newly_solved: tasks solved (any attempt right) by b and not by a; newly_broken: the reverse; in the order of a.
    minimum_detectable_effect: smallest true difference that this many tasks of this spread find with 80 % power at the 5 % level;
    None when the tasks do not differ in theirs."""

    num_common: int
    num_only_a: int
    num_only_b: int
    difference: Estimate | None
    p_value: float | None
    method: str
    pass_at: dict[int, Estimate]
    pass_at_tasks: dict[int, int]
    newly_solved: list[str]
    newly_broken: list[str]
    minimum_detectable_effect: float | None

    def as_json(self) -> dict[str, Any]:
        """As JSON has it: the k are texts."""
        found = asdict(self)
        for name in ("pass_at", "pass_at_tasks"):
            found[name] = {str(k): value for k, value in found[name].items()}
        return found


def compare(
    a: Mapping[str, TaskCount], b: Mapping[str, TaskCount], *, ks: Sequence[int] | None = None, seed: int = 0
) -> Comparison:
    """Compare two eval runs, each as task_id → TaskCount. ks: for which pass@k; None gives 1 … what both runs have.
    seed: of the drawn flips, where they cannot all be counted."""
    verdicts_a = {task_id for task_id, count in a.items() if count.n}
    verdicts_b = {task_id for task_id, count in b.items() if count.n}
    common = [task_id for task_id in a if task_id in verdicts_a and task_id in verdicts_b]
    n = _column(a, common, "n"), _column(b, common, "n")
    correct = _column(a, common, "num_correct"), _column(b, common, "num_correct")
    differences = correct[1] / np.maximum(n[1], 1) - correct[0] / np.maximum(n[0], 1)
    estimate = difference_estimate(differences) if common else None
    p_value, method = _sign_flip_test(n, correct, seed) if common else (None, "no common tasks")
    both = np.minimum(*n)
    most = int(both.max(initial=0))
    wanted = [k for k in (default_ks(most) if ks is None else sorted(set(ks))) if 1 <= k <= most]
    of_a, of_b = (pass_at_per_task(n[run], correct[run], wanted) for run in (0, 1))
    pass_at = {k: difference_estimate((of_b[k] - of_a[k])[both >= k]) for k in wanted}
    return Comparison(
        num_common=len(common),
        num_only_a=len(verdicts_a - verdicts_b),
        num_only_b=len(verdicts_b - verdicts_a),
        difference=estimate,
        p_value=p_value,
        method=method,
        pass_at=pass_at,
        pass_at_tasks={k: int((both >= k).sum()) for k in wanted},
        newly_solved=[task_id for task_id in common if b[task_id].num_correct and not a[task_id].num_correct],
        newly_broken=[task_id for task_id in common if a[task_id].num_correct and not b[task_id].num_correct],
        minimum_detectable_effect=_minimum_detectable_effect(estimate, len(common)),
    )


def _column(counts: Mapping[str, TaskCount], task_ids: Sequence[str], name: str) -> NDArray[np.int64]:
    return np.fromiter((getattr(counts[task_id], name) for task_id in task_ids), np.int64, len(task_ids))


def difference_estimate(per_task: Floats) -> Estimate:
    """Mean of M ≥ 1 differences within [−1, 1], one per task, with the paired t interval of M − 1 degrees, cut to [−1, 1].

    Where all differences are the same value d there is no spread to go by. With 97.5 % confidence at most the share
    u = 1 − 0.025^(1/M) of all tasks behaves otherwise (the exact form of the rule of three), and those lie within [−1, 1]:
    the interval is (1 − u)·d ± u.
    """
    num_tasks, value = len(per_task), float(per_task.mean())
    if num_tasks < 2 or np.ptp(per_task) < 1e-12:
        unlike = 1.0 - (1.0 - UPPER) ** (1.0 / num_tasks)
        centre = (1.0 - unlike) * value
        stderr = None if num_tasks < 2 else 0.0
        return Estimate(value, max(centre - unlike, -1.0), min(centre + unlike, 1.0), stderr)
    stderr = float(per_task.std(ddof=1)) / math.sqrt(num_tasks)
    half = student_quantile(UPPER, num_tasks - 1) * stderr
    return Estimate(value, max(value - half, -1.0), min(value + half, 1.0), stderr)


def _minimum_detectable_effect(difference: Estimate | None, num_tasks: int) -> float | None:
    """(t(0.975) + t(0.8))·se, the usual approximation of the noncentral t (within 1 % from about 20 tasks)."""
    if difference is None or not difference.stderr:
        return None
    quantiles = student_quantile(UPPER, num_tasks - 1) + student_quantile(POWER, num_tasks - 1)
    return min(quantiles * difference.stderr, 1.0)


def _sign_flip_test(
    n: tuple[NDArray[np.int64], NDArray[np.int64]], correct: tuple[NDArray[np.int64], NDArray[np.int64]], seed: int
) -> tuple[float, str]:
    """Two-sided p of the sum of differences under random signs, and how it was found."""
    denominator = math.lcm(*(int(value) for value in np.unique(np.concatenate(n))))
    if denominator <= MAX_GRID:
        steps = correct[1] * (denominator // n[1]) - correct[0] * (denominator // n[0])
        sizes = np.abs(steps[steps != 0])
        grain = int(np.gcd.reduce(sizes)) if len(sizes) else 1
        if len(sizes) and int(sizes.sum()) // grain <= MAX_GRID:
            return _exact_p(
                sizes // grain, abs(int(steps.sum())) // grain
            ), f"exact sign-flip test of {len(sizes):,} differing tasks"
        if not len(sizes):
            return 1.0, "exact sign-flip test: no task differs"
    differences = correct[1] / n[1] - correct[0] / n[0]
    return _drawn_p(differences[differences != 0.0], seed), f"sign-flip test, {NUM_DRAWS:,} random flips"


def _exact_p(sizes: NDArray[np.int64], observed: int) -> float:
    """P(|Σ ±size| ≥ observed) over all signs. The sum is 2·(sizes with a plus) − total; tasks of one size make a binomial."""
    total = int(sizes.sum())
    plus = np.ones(1)
    for size, times in zip(*np.unique(sizes, return_counts=True), strict=True):
        spread = np.zeros(int(size) * int(times) + 1)
        spread[:: int(size)] = _fair_binomial(int(times))
        plus = _convolve(plus, spread)
    far = np.abs(2 * np.arange(total + 1) - total) >= observed
    return min(max(float(plus[far].sum()), FINEST_P), 1.0)


def _fair_binomial(times: int) -> Floats:
    """P(j heads of `times` tosses) for j = 0 … times."""
    j = np.arange(1, times + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((times - j + 1) / j))])
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _convolve(left: Floats, right: Floats) -> Floats:
    """Directly while that is quick (it keeps small probabilities exact), by Fourier transform beyond."""
    if len(left) * len(right) <= 10_000_000:
        return np.convolve(left, right)
    length = len(left) + len(right) - 1
    size = 1 << (length - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(left, size) * np.fft.rfft(right, size), size)[:length]
    return np.asarray(np.maximum(product, 0.0), dtype=np.float64)


def _drawn_p(differences: Floats, seed: int) -> float:
    """(1 + flips at least as far) / (1 + flips drawn), so that it is never zero (Phipson & Smyth 2010)."""
    generator = np.random.default_rng(seed)
    observed = abs(float(differences.sum()))
    tolerance = 1e-12 * max(float(np.abs(differences).sum()), 1.0)
    chunk = max(1, min(NUM_DRAWS, 8_000_000 // max(len(differences), 1)))
    far = drawn = 0
    while drawn < NUM_DRAWS:
        count = min(chunk, NUM_DRAWS - drawn)
        signs = generator.integers(0, 2, size=(count, len(differences)), dtype=np.int8) * 2 - 1
        far += int((np.abs(signs @ differences) >= observed - tolerance).sum())
        drawn += count
    return (1 + far) / (1 + NUM_DRAWS)
