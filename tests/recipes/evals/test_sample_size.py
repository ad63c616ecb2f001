"""Sample sizes: the minimum detectable effect turned round, held to the formula, to simulation and to hostile input."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.evals.metrics import TaskCount
from recipes.evals.sample_size import MOST_TASKS, Spread, detectable, spread_of, tasks_needed
from recipes.evals.statistics import compare

Counts = dict[str, TaskCount]


def drawn(num_tasks: int, k: int, *, gain: float, seed: int) -> tuple[Counts, Counts]:
    """Tasks of any difficulty, and a model that is better by `gain` on average, more on some tasks than on others."""
    generator = np.random.default_rng(seed)
    before = generator.uniform(0.1, 0.7, num_tasks)
    after = np.clip(before + gain + generator.normal(0, 0.1, num_tasks), 0, 1)
    runs = [generator.binomial(k, chance) for chance in (before, after)]
    a, b = ({str(at): TaskCount(str(at), k, int(right)) for at, right in enumerate(run)} for run in runs)
    return a, b


def test_turned_round_it_gives_the_tasks_it_began_with() -> None:
    a, b = drawn(150, 8, gain=0.0, seed=1)
    effect = compare(a, b).minimum_detectable_effect
    spread = spread_of(a, b)
    assert effect is not None and spread is not None
    assert detectable(spread, num_tasks=150, k=8) == pytest.approx(effect, rel=0.01)
    assert tasks_needed(spread, effect=effect, k=8) == pytest.approx(150, abs=3)


def test_it_is_the_papers_formula_where_tasks_are_many() -> None:
    spread = Spread(between=0.01, within=0.4)
    z = 1.959964 + 0.841621
    for k in (1, 8, 64):
        found = tasks_needed(spread, effect=0.01, k=k)
        assert found == pytest.approx(z**2 * (0.01 + 0.4 / k) / 0.01**2, rel=0.01)


def test_more_attempts_help_only_against_the_noise_of_attempts() -> None:
    noisy, varied = Spread(0.0, 0.4), Spread(0.05, 0.0)
    few, many = (tasks_needed(noisy, effect=0.02, k=k) for k in (4, 64))
    assert few and many and few > 12 * many
    assert tasks_needed(varied, effect=0.02, k=4) == tasks_needed(varied, effect=0.02, k=64)


def test_both_parts_of_the_spread_are_found_without_bias() -> None:
    found = [spread_of(*drawn(300, 4, gain=0.05, seed=seed)) for seed in range(60)]
    between = np.mean([spread.between for spread in found if spread])
    within = np.mean([spread.within for spread in found if spread])
    assert between == pytest.approx(0.1**2, abs=0.003)  # as drawn, but for what is cut off at 0 and 1
    assert within == pytest.approx(0.43, abs=0.02)


def test_so_many_tasks_find_the_change_four_times_out_of_five() -> None:
    pilot = spread_of(*drawn(400, 8, gain=0.05, seed=5))
    assert pilot is not None
    needed = tasks_needed(pilot, effect=0.05, k=8)
    assert needed is not None and 20 < needed < 400
    seen = 0
    for seed in range(200):
        p_value = compare(*drawn(needed, 8, gain=0.05, seed=1000 + seed)).p_value
        seen += p_value is not None and p_value < 0.05
    assert 0.7 <= seen / 200 <= 0.9


def test_one_attempt_at_each_task_cannot_tell_tasks_from_luck() -> None:
    a, b = drawn(50, 1, gain=0.1, seed=2)
    spread = spread_of(a, b)
    assert spread is not None and spread.within == 0.0 and spread.between > 0


def test_nothing_to_go_by_is_none() -> None:
    same = {str(at): TaskCount(str(at), 4, 4) for at in range(5)}
    assert spread_of(same, same) is None
    assert spread_of({}, {}) is None
    assert spread_of({"a": TaskCount("a", 4, 1)}, {"a": TaskCount("a", 4, 2)}) is None
    empty = {"a": TaskCount("a", 0, 0, num_errors=3), "b": TaskCount("b", 0, 0)}
    assert spread_of(empty, empty) is None


def test_beyond_ten_million_tasks_it_says_so_and_impossible_questions_are_refused() -> None:
    assert tasks_needed(Spread(0.2, 0.4), effect=1e-5, k=1) is None
    assert MOST_TASKS >= (tasks_needed(Spread(0.2, 0.4), effect=1e-3, k=1) or 0) > 1_000_000
    for effect, k in ((0.0, 1), (-0.1, 1), (1.5, 1), (0.1, 0)):
        with pytest.raises(ValueError, match="are needed"):
            tasks_needed(Spread(0.2, 0.4), effect=effect, k=k)
