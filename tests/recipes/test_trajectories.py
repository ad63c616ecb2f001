"""Advantages within a group, and datums whose numbers stand at the positions that predict what was said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from recipes.errors import BackendError
from recipes.trajectories import datums_of, drift, group_advantages, is_constant
from recipes.types import Datum, ForwardBackwardResult, Trajectory, Turn, float_array, int_array

ROOT_HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("rewards", "by_std", "expected"),
    [
        ([1, 0, 0, 1], False, [0.5, -0.5, -0.5, 0.5]),
        ([1, 0, 0, 1], True, [1, -1, -1, 1]),
        ([3, 1, 2], False, [1, -1, 0]),
        ([3, 1, 2], True, [math.sqrt(1.5), -math.sqrt(1.5), 0]),
        ([1, 1, 1], False, [0, 0, 0]),
        ([1, 1, 1], True, [0, 0, 0]),
        ([0.1 + 0.2, 0.3], True, [0, 0]),
        ([2.5], False, [2.5]),
        ([2.5], True, [2.5]),
        ([], False, []),
        ([-1, 1], True, [-1, 1]),
    ],
)
def test_advantages_by_table(rewards: list[float], by_std: bool, expected: list[float]) -> None:
    assert group_advantages(rewards, by_std=by_std) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [([1, 1], True), ([0.1 + 0.2, 0.3], True), ([1, 0], False), ([1], True), ([], True), ([0, 1e-3], False)],
)
def test_a_group_is_constant_when_no_attempt_did_better(rewards: list[float], expected: bool) -> None:
    assert is_constant(rewards) is expected


def trajectory(*turns: Turn, advantage: float = 2.0) -> Trajectory:
    return Trajectory("t", list(turns), 1.0, advantage=advantage)


def columns(datum: Datum) -> list[tuple[int, int, float, float]]:
    inputs = datum.loss_fn_inputs
    return list(
        zip(
            datum.model_input.tolist(),
            inputs["target_tokens"].tolist(),
            inputs["logprobs"].tolist(),
            inputs["advantages"].tolist(),
            strict=True,
        )
    )


def test_one_turn_is_one_datum_and_the_prompt_carries_no_advantage() -> None:
    (datum,) = datums_of(trajectory(Turn([1, 2, 3], [7, 8], [-0.5, -0.25])))
    assert columns(datum) == [(1, 2, 0, 0), (2, 3, 0, 0), (3, 7, -0.5, 2), (7, 8, -0.25, 2)]
    assert set(datum.loss_fn_inputs) == {"target_tokens", "logprobs", "advantages"}, "the losses take no other key"
    assert datum.model_input.dtype == np.int64 and datum.loss_fn_inputs["advantages"].dtype == np.float32


def test_turns_that_go_on_from_each_other_share_one_datum() -> None:
    first, second = Turn([1, 2], [7, 8], [-1.0, -2.0]), Turn([1, 2, 7, 8, 3, 4], [9], [-3.0])
    (datum,) = datums_of(trajectory(first, second, advantage=-1.0))
    assert columns(datum) == [(1, 2, 0, 0), (2, 7, -1, -1), (7, 8, -2, -1), (8, 3, 0, 0), (3, 4, 0, 0), (4, 9, -3, -1)]


def test_a_turn_whose_prompt_reads_differently_begins_a_datum_of_its_own() -> None:
    first, second = Turn([1, 2], [7, 8], [-1.0, -2.0]), Turn([1, 2, 5, 3], [9], [-3.0])
    one, two = datums_of(trajectory(first, second))
    assert columns(one) == [(1, 2, 0, 0), (2, 7, -1, 2), (7, 8, -2, 2)]
    assert columns(two) == [(1, 2, 0, 0), (2, 5, 0, 0), (5, 3, 0, 0), (3, 9, -3, 2)]


def test_a_shorter_second_prompt_is_no_continuation() -> None:
    assert len(datums_of(trajectory(Turn([1, 2, 3], [7], [-1.0]), Turn([1, 2], [9], [-3.0])))) == 2


def test_nothing_said_is_no_datum() -> None:
    assert datums_of(trajectory()) == []
    assert datums_of(trajectory(Turn([1, 2], [], []))) == []


@pytest.mark.parametrize(
    ("logprobs", "sentence"),
    [
        ([], "0 log-probabilities for 2 tokens"),
        ([-1.0], "1 log-probabilities for 2 tokens"),
        ([-1.0, float("nan")], "log-probability nan"),
        ([-1.0, float("-inf")], "log-probability -inf"),
        ([-1.0, None], "log-probability None"),
    ],
)
def test_a_missing_log_probability_is_an_error_and_never_a_zero(logprobs: list[Any], sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence) as caught:
        datums_of(trajectory(Turn([1, 2], [7, 8], logprobs)))
    assert caught.value.permanent and "'t'" in str(caught.value)


def datum(logprobs: list[float], advantages: list[float]) -> Datum:
    n = len(logprobs)
    inputs = {"target_tokens": int_array(range(n)), "logprobs": float_array(logprobs), "advantages": float_array(advantages)}
    return Datum(int_array(range(n)), inputs)


def test_drift_is_measured_over_what_carries_an_advantage_only() -> None:
    data = [datum([-1.0, -1.0, 0.0], [1, -1, 0]), datum([-2.0], [1])]
    trained = [[-1.0 + math.log(2), -1.0, -50.0], [-2.0 - math.log(4)]]
    result = ForwardBackwardResult([{"logprobs": float_array(row)} for row in trained], {"loss:sum": 0.0})
    found = drift(data, result, low=0.8, high=1.2)
    ratios = [2, 1, 0.25]
    assert found["train/ratio_mean"] == pytest.approx(np.mean(ratios), rel=1e-6)
    assert found["train/ratio_max"] == pytest.approx(2, rel=1e-6)
    assert found["train/ratio_clipped"] == pytest.approx(2 / 3)
    assert found["kl/sampler"] == pytest.approx(np.mean([r - 1 - math.log(r) for r in ratios]), rel=1e-6)


def test_no_drift_is_reported_where_the_backend_gives_no_log_probabilities() -> None:
    assert drift([datum([-1.0], [1])], ForwardBackwardResult([{}], {}), low=0, high=9) == {}
    result = ForwardBackwardResult([{"logprobs": float_array([-1.0])}], {})
    assert drift([datum([-1.0], [0])], result, low=0, high=9) == {}
