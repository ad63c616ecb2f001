from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipes.evals.metrics import TaskCount, pass_at_k
from recipes.evals.statistics import Comparison, compare, difference_estimate

Pairs = list[tuple[int, int]]


def run(pairs: Pairs) -> dict[str, TaskCount]:
    """Task i has n attempts of which c are right, from (n, c)."""
    return {f"t{index}": TaskCount(f"t{index}", n, c, float(c)) for index, (n, c) in enumerate(pairs)}


def run_of(right: list[int], n: int = 8) -> dict[str, TaskCount]:
    return run([(n, c) for c in right])


def random_runs(seed: int, num_tasks: int, n: int) -> tuple[list[int], list[int]]:
    rng = np.random.default_rng(seed)
    chance = rng.beta(1, 1, num_tasks)
    return rng.binomial(n, chance).tolist(), rng.binomial(n, np.clip(chance + 0.1, 0, 1)).tolist()


def brute_force_p(differences: list[float]) -> float:
    observed = abs(sum(differences)) - 1e-9
    flips = [
        sum(sign * d for sign, d in zip(signs, differences, strict=True)) for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(abs(total) >= observed for total in flips) / len(flips)


def test_the_difference_is_scipys_paired_t_interval() -> None:
    for seed, num_tasks in ((0, 6), (1, 40), (2, 400)):
        a, b = random_runs(seed, num_tasks, 8)
        expected = stats.ttest_rel(np.array(b) / 8, np.array(a) / 8).confidence_interval(0.95)
        difference = compare(run_of(a), run_of(b)).difference
        assert difference is not None
        assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert difference.stderr == pytest.approx(stats.sem((np.array(b) - np.array(a)) / 8), abs=1e-9)


def test_with_one_attempt_per_task_the_p_value_is_the_exact_sign_test() -> None:
    for seed in range(5):
        a, b = random_runs(seed, 300, 1)
        better, worse = sum(x < y for x, y in zip(a, b, strict=True)), sum(x > y for x, y in zip(a, b, strict=True))
        found = compare(run_of(a, 1), run_of(b, 1))
        assert found.p_value == pytest.approx(stats.binomtest(better, better + worse).pvalue, abs=1e-9)


def test_the_p_value_is_scipys_exact_permutation_test() -> None:
    for seed in range(4):
        a, b = random_runs(seed, 11, 8)
        expected = stats.permutation_test(
            (np.array(b), np.array(a)), lambda x, y: float(np.sum(x - y)), permutation_type="samples", n_resamples=np.inf
        )
        found = compare(run_of(a), run_of(b))
        assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)
        assert found.method.startswith("exact sign-flip test of")


pair = st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(st.lists(st.tuples(pair, pair), min_size=1, max_size=9))
def test_the_exact_p_value_is_that_of_all_flips_counted_one_by_one(tasks: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    found = compare(run([a for a, _ in tasks]), run([b for _, b in tasks]))
    assert found.p_value == pytest.approx(brute_force_p([b[1] / b[0] - a[1] / a[0] for a, b in tasks]), abs=1e-9)


@given(st.lists(st.tuples(pair, pair), min_size=1, max_size=12))
def test_swapping_the_runs_turns_every_sign_and_changes_nothing_else(
    tasks: list[tuple[tuple[int, int], tuple[int, int]]],
) -> None:
    there = compare(run([a for a, _ in tasks]), run([b for _, b in tasks]))
    back = compare(run([b for _, b in tasks]), run([a for a, _ in tasks]))
    assert there.difference is not None and back.difference is not None
    assert there.difference.value == pytest.approx(-back.difference.value, abs=1e-12)
    assert there.difference.low == pytest.approx(-(back.difference.high or 0.0), abs=1e-9)
    assert there.p_value == pytest.approx(back.p_value, abs=1e-12)
    assert (there.newly_solved, there.newly_broken) == (back.newly_broken, back.newly_solved)


def test_a_large_grid_is_convolved_by_transform_and_stays_right() -> None:
    a, b = random_runs(7, 6000, 8)
    found = compare(run_of(a), run_of(b))
    d = (np.array(b) - np.array(a)) / 8
    assert found.method.startswith("exact")
    half = [8] * 3000 + [0] * 3000, [0] * 2950 + [8] * 50 + [8] * 3000
    sign_test = compare(run_of(half[0]), run_of(half[1]))
    assert sign_test.p_value == pytest.approx(stats.binomtest(3000, 5950).pvalue, abs=1e-9)
    assert found.p_value is not None and abs(d.mean()) > 0.05 and found.p_value <= 1e-12


def test_attempts_without_a_common_denominator_are_drawn_with_a_seed() -> None:
    rng = np.random.default_rng(8)
    primes = [97, 101, 103, 107, 109]
    a = [(p, int(rng.integers(0, p))) for p in primes * 8]
    b = [(p, int(rng.integers(0, p))) for p in primes[::-1] * 8]
    first, again, other = compare(run(a), run(b)), compare(run(a), run(b)), compare(run(a), run(b), seed=1)
    assert first == again and first.method == "sign-flip test, 20,000 random flips"
    assert first.p_value != other.p_value and first.p_value == pytest.approx(other.p_value, abs=0.02)
    d = np.array([y[1] / y[0] - x[1] / x[0] for x, y in zip(a, b, strict=True)])
    assert first.p_value == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.02)


def test_pass_at_k_is_compared_where_both_runs_have_k_attempts() -> None:
    found = compare(run([(4, 1), (4, 2), (2, 2)]), run([(4, 3), (3, 0), (2, 1)]))
    assert list(found.pass_at) == [1, 2, 3, 4]
    assert found.pass_at_tasks == {1: 3, 2: 3, 3: 2, 4: 1}
    expected = np.mean([pass_at_k(4, 3, 3) - pass_at_k(4, 1, 3), pass_at_k(3, 0, 3) - pass_at_k(4, 2, 3)])
    assert found.pass_at[3].value == pytest.approx(expected, abs=1e-12)
    assert list(compare(run([(4, 1)]), run([(4, 3)]), ks=[0, 2, 9]).pass_at) == [2]


def test_solved_and_broken_tasks_are_named_and_others_counted() -> None:
    a = run_of([0, 3, 0, 8, 0]) | {"only-a": TaskCount("only-a", 2, 1), "dead": TaskCount("dead", 0, 0, 0.0, 8)}
    b = run_of([1, 0, 0, 8, 0]) | {"only-b": TaskCount("only-b", 2, 1), "dead": TaskCount("dead", 8, 8)}
    found = compare(a, b)
    assert (found.num_common, found.num_only_a, found.num_only_b) == (5, 1, 2)
    assert (found.newly_solved, found.newly_broken) == (["t0"], ["t1"])


def test_equal_runs_do_not_differ_but_could_by_the_rule_of_three() -> None:
    found = compare(run_of([3] * 100), run_of([3] * 100))
    assert found.p_value == 1.0 and found.minimum_detectable_effect is None
    assert found.difference is not None and (found.difference.value, found.difference.stderr) == (0.0, 0.0)
    assert found.difference.high == pytest.approx(1 - 0.025 ** (1 / 100)) and found.difference.low == -found.difference.high


def test_a_difference_that_is_everywhere_the_same_has_no_zero_width() -> None:
    all_better = difference_estimate(np.ones(10))
    assert all_better.high == 1.0 and all_better.low == pytest.approx(1 - 2 * (1 - 0.025**0.1))
    one = difference_estimate(np.array([0.5]))
    assert one.low is not None and one.high is not None and one.low < -0.9 and one.high == pytest.approx(0.9875)


@pytest.mark.parametrize(("a", "b"), [({}, {}), (run_of([1]), {}), (run([(0, 0)]), run_of([1]))])
def test_no_common_tasks_give_no_numbers(a: dict[str, TaskCount], b: dict[str, TaskCount]) -> None:
    found = compare(a, b)
    assert (found.num_common, found.difference, found.p_value, found.pass_at) == (0, None, None, {})
    assert found.method == "no common tasks" and found.num_only_b == len(b)


def test_the_detectable_effect_is_that_of_statsmodels_power_analysis() -> None:
    from statsmodels.stats.power import TTestPower

    a, b = random_runs(9, 60, 8)
    found: Comparison = compare(run_of(a), run_of(b))
    spread = np.std((np.array(b) - np.array(a)) / 8, ddof=1)
    assert found.minimum_detectable_effect == pytest.approx(
        TTestPower().solve_power(nobs=60, alpha=0.05, power=0.8) * spread, rel=0.01
    )


def test_a_comparison_goes_through_json() -> None:
    found = compare(run_of([1, 2]), run_of([2, 2])).as_json()
    assert json.loads(json.dumps(found, allow_nan=False))["pass_at_tasks"]["8"] == 2


def test_difference_intervals_cover_the_truth_and_equal_runs_are_called_different_in_5_percent() -> None:
    rng = np.random.default_rng(10)
    rounds, num_tasks, n = 1000, 80, 8
    chance = rng.beta(1, 2, (rounds, num_tasks))
    a, b = rng.binomial(n, chance), rng.binomial(n, chance)
    covered = [difference_estimate((y - x) / n) for x, y in zip(a, b, strict=True)]
    assert 0.93 <= np.mean([(e.low or 0.0) <= 0.0 <= (e.high or 0.0) for e in covered]) <= 0.97
    p = [compare(run_of(x), run_of(y), ks=[]).p_value for x, y in zip(a[:400].tolist(), b[:400].tolist(), strict=True)]
    assert 0.02 <= np.mean([(value or 0.0) <= 0.05 for value in p]) <= 0.08
