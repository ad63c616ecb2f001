from __future__ import annotations

import json
import time
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipes.evals.distributions import student_quantile
from recipes.evals.metrics import (
    Estimate,
    TaskCount,
    count_attempts,
    default_ks,
    mean_estimate,
    pass_at_k,
    pass_hat_k,
    share_estimate,
    summarise,
)
from recipes.rollouts import AttemptResult

n_and_correct = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


def counts(*right: int, n: int = 4, num_errors: int = 0) -> list[TaskCount]:
    return [TaskCount(f"t{index}", n, c, float(c), num_errors) for index, c in enumerate(right)]


def bounds(estimate: Estimate | None) -> tuple[float, float]:
    assert estimate is not None and estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_attempt() -> None:
    for n, c, k in ((5, 2, 3), (6, 1, 2), (4, 0, 2), (4, 4, 1), (7, 3, 7)):
        draws = list(combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == float(Fraction(sum(map(any, draws)), len(draws)))
        assert pass_hat_k(n, c, k) == float(Fraction(sum(map(all, draws)), len(draws)))


def test_pass_at_k_agrees_with_scipys_hypergeometric() -> None:
    rng = np.random.default_rng(0)
    for n in rng.integers(1, 200, 200):
        c, k = int(rng.integers(0, n + 1)), int(rng.integers(1, n + 1))
        assert pass_at_k(int(n), c, k) == pytest.approx(stats.hypergeom.sf(0, n, c, k), abs=1e-9)
        assert pass_hat_k(int(n), c, k) == pytest.approx(stats.hypergeom.pmf(k, n, c, k), abs=1e-9)


def test_fewer_attempts_than_k_fall_back_to_any_and_all() -> None:
    assert [pass_at_k(2, c, 5) for c in (0, 1, 2)] == [0.0, 1.0, 1.0]
    assert [pass_hat_k(2, c, 5) for c in (0, 1, 2)] == [0.0, 0.0, 1.0]
    assert pass_hat_k(0, 0, 1) == 0.0


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_counts_that_cannot_be_are_refused(n: int, c: int, k: int) -> None:
    for metric in (pass_at_k, pass_hat_k):
        with pytest.raises(ValueError, match="needed"):
            metric(n, c, k)
    with pytest.raises(ValueError):
        summarise(counts(1), ks=[0])


@given(st.lists(n_and_correct, min_size=1, max_size=30))
def test_the_summary_is_the_mean_of_the_single_numbers(pairs: list[tuple[int, int]]) -> None:
    summary = summarise([TaskCount(str(index), n, c, float(c)) for index, (n, c) in enumerate(pairs)])
    assert summary.avg is not None and summary.avg.value == pytest.approx(np.mean([c / n for n, c in pairs]), abs=1e-12)
    assert list(summary.pass_at) == list(range(1, max(n for n, _ in pairs) + 1))
    for k, estimate in summary.pass_at.items():
        assert estimate.value == pytest.approx(np.mean([pass_at_k(n, c, k) for n, c in pairs]), abs=1e-12)
        assert summary.pass_hat[k].value == pytest.approx(np.mean([pass_hat_k(n, c, k) for n, c in pairs]), abs=1e-12)
        assert summary.num_short[k] == sum(n < k for n, _ in pairs)


@given(st.lists(n_and_correct, min_size=1, max_size=30))
def test_intervals_hold_their_value_stay_within_bounds_and_are_never_of_zero_width(pairs: list[tuple[int, int]]) -> None:
    summary = summarise([TaskCount(str(index), n, c, float(c)) for index, (n, c) in enumerate(pairs)])
    for estimate in (summary.avg, *summary.pass_at.values(), *summary.pass_hat.values()):
        low, high = bounds(estimate)
        assert estimate is not None and 0.0 <= low <= estimate.value + 1e-12 and estimate.value - 1e-12 <= high <= 1.0
        assert high - low > 1e-6


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30))
def test_more_attempts_to_choose_from_never_hurt_and_more_to_get_right_never_help(right: list[int]) -> None:
    summary = summarise(counts(*right, n=8))
    values = [summary.pass_at[k].value for k in range(1, 9)]
    all_values = [summary.pass_hat[k].value for k in range(1, 9)]
    assert values == sorted(values) and all_values == sorted(all_values, reverse=True)
    assert summary.avg is not None and values[0] == pytest.approx(summary.avg.value, abs=1e-12)
    assert all_values[0] == pytest.approx(summary.avg.value, abs=1e-12)


def test_the_standard_error_is_the_cluster_robust_one_of_statsmodels() -> None:
    from statsmodels.regression.linear_model import OLS

    rng = np.random.default_rng(1)
    for num_tasks, n in ((5, 2), (30, 8), (200, 4)):
        rewards = rng.normal(size=(num_tasks, n)) + rng.normal(size=(num_tasks, 1))
        fitted = OLS(rewards.reshape(-1), np.ones(num_tasks * n)).fit(
            cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(num_tasks), n)}, use_t=True
        )
        estimate = mean_estimate(rewards.mean(axis=1))
        assert estimate.value == pytest.approx(fitted.params[0], abs=1e-9)
        assert estimate.stderr == pytest.approx(fitted.bse[0], abs=1e-9)
        assert bounds(estimate) == pytest.approx(tuple(fitted.conf_int()[0]), abs=1e-9)


def test_the_interval_of_a_share_is_wilsons_for_the_effective_number_of_tries() -> None:
    from statsmodels.stats.proportion import proportion_confint

    rng = np.random.default_rng(2)
    for num_tasks in (4, 30, 500):
        shares = rng.binomial(8, rng.beta(1, 1, num_tasks)) / 8
        estimate = share_estimate(shares, num_tasks * 8)
        assert estimate.stderr == pytest.approx(stats.sem(shares), abs=1e-9)
        tries = estimate.value * (1 - estimate.value) / stats.sem(shares) ** 2
        alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, num_tasks - 1))
        expected = proportion_confint(estimate.value * tries, tries, alpha=alpha, method="wilson")
        assert bounds(estimate) == pytest.approx(expected, abs=1e-9)


def test_all_right_and_all_wrong_give_the_exact_interval_of_so_many_tasks() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for num_tasks in (1, 2, 10, 300):
        for right in (0, 4):
            estimate = summarise(counts(*[right] * num_tasks)).avg
            expected = proportion_confint(num_tasks * right // 4, num_tasks, method="beta")
            assert bounds(estimate) == pytest.approx(expected, abs=1e-9)


def test_one_task_that_is_partly_right_says_nothing_about_others() -> None:
    assert summarise(counts(2)).avg == Estimate(0.5, 0.0, 1.0, None)


def test_tasks_that_are_all_half_right_are_no_more_certain_than_so_many_independent_tries() -> None:
    from statsmodels.stats.proportion import proportion_confint

    low, high = bounds(summarise(counts(*[2] * 25)).avg)
    alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, 24))
    assert (low, high) == pytest.approx(proportion_confint(50, 100, alpha=alpha, method="wilson"), abs=1e-9)


def test_a_mean_reward_without_spread_has_no_interval() -> None:
    assert mean_estimate(np.array([3.5, 3.5])) == Estimate(3.5, None, None, 0.0)
    assert mean_estimate(np.array([3.5])) == Estimate(3.5, None, None, None)


def test_errors_stay_outside_n_unless_asked_for() -> None:
    given_counts = [*counts(4, num_errors=4), TaskCount("dead", 0, 0, 0.0, 8)]
    summary = summarise(given_counts)
    assert (summary.num_tasks, summary.num_tasks_left_out, summary.num_attempts, summary.num_errors) == (1, 1, 4, 12)
    assert summary.avg is not None and summary.avg.value == 1.0
    strict = summarise(given_counts, errors_are_wrong=True)
    assert (strict.num_tasks, strict.num_attempts) == (2, 16)
    assert strict.avg is not None and strict.avg.value == 0.25


@pytest.mark.parametrize("given_counts", [[], [TaskCount("dead", 0, 0, 0.0, 3)]])
def test_no_verdicts_give_no_numbers(given_counts: list[TaskCount]) -> None:
    summary = summarise(given_counts, ks=[1, 2])
    assert (summary.num_tasks, summary.avg, summary.reward, summary.pass_at, summary.pass_hat) == (0, None, None, {}, {})


def test_a_summary_goes_through_json() -> None:
    summary = summarise(counts(1, 2, 3))
    assert json.loads(json.dumps(summary.as_json(), allow_nan=False))["pass_at"]["4"]["value"] == 1.0


def test_attempts_are_counted_by_task_and_an_error_is_never_a_wrong_answer() -> None:
    attempts = [
        AttemptResult("b", 0, reward=0.5, is_correct=True),
        AttemptResult("a", 0, error="No answer.", error_kind="timeout"),
        AttemptResult("b", 1, reward=0.0, is_correct=False),
        AttemptResult("a", 1, is_correct=True),
    ]
    assert count_attempts(attempts) == [TaskCount("b", 2, 1, 0.5, 0), TaskCount("a", 1, 1, 1.0, 1)]


def test_a_thousand_attempts_give_a_curve_of_about_forty_points() -> None:
    ks = default_ks(1024)
    assert ks[0] == 1 and ks[-1] == 1024 and 30 <= len(ks) <= 48
    value = summarise([TaskCount("t", 1024, 3, 3.0)]).pass_at[1024].value
    assert value == 1.0
    assert summarise([TaskCount("t", 1024, 3, 3.0)], ks=[500]).pass_at[500].value == pytest.approx(pass_at_k(1024, 3, 500))


def test_twenty_thousand_tasks_are_summed_up_without_a_loop_over_them() -> None:
    rng = np.random.default_rng(3)
    right = rng.binomial(8, rng.beta(0.5, 0.5, 20_000))
    given_counts = counts(*right.tolist(), n=8)
    began = time.process_time()  # this process' own work: another's says nothing
    summarise(given_counts)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(("num_tasks", "a", "b"), [(30, 2.0, 2.0), (100, 0.3, 0.6), (200, 9.0, 1.0)])
def test_intervals_cover_the_truth_in_93_to_97_percent_of_simulated_evals(num_tasks: int, a: float, b: float) -> None:
    rng = np.random.default_rng(4)
    rounds, n = 2000, 8
    shares = rng.binomial(n, rng.beta(a, b, (rounds, num_tasks))) / n
    found = [bounds(share_estimate(row, num_tasks * n)) for row in shares]
    assert 0.93 <= np.mean([low <= a / (a + b) <= high for low, high in found]) <= 0.97


def test_pass_at_k_intervals_cover_the_truth_in_93_to_97_percent_of_simulated_evals() -> None:
    rng = np.random.default_rng(5)
    rounds, num_tasks, n, k = 1000, 60, 8, 4
    right = rng.binomial(n, rng.beta(0.5, 2.0, (rounds, num_tasks)))
    truth = 1 - stats.beta(2.0, 0.5).moment(k)  # 1 − E[(1 − p)^k]
    table = np.array([pass_at_k(n, c, k) for c in range(n + 1)])
    found = [bounds(share_estimate(table[row], num_tasks * n)) for row in right]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in found]) <= 0.97


def test_student_quantiles_agree_with_scipy() -> None:
    for degrees in [*range(1, 31), 99, 300, 999, 1000, 20_000, 10_000_000]:
        for probability in (0.025, 0.6, 0.8, 0.975, 0.999):
            assert student_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)
