"""All six losses against plain arithmetic in float64, position by position, and their slopes against differences of it.

Nothing here is shared with `recipes.losses`: the formulas are written out again from Tinker's documentation and the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recipes import losses
from recipes.errors import DataError
from recipes.types import Array, Datum, float_array, int_array

LOW, HIGH, BETA = 0.8, 1.25, 0.3
STEP = 1e-6
Formula = Callable[..., float]


def cross_entropy(lp: float, w: float) -> float:
    return -w * lp


def importance_sampling(lp: float, q: float, a: float) -> float:
    return -math.exp(lp - q) * a


def ppo(lp: float, q: float, a: float) -> float:
    ratio = math.exp(lp - q)
    inside = LOW if ratio < LOW else HIGH if ratio > HIGH else ratio
    return -(ratio * a if ratio * a < inside * a else inside * a)


def cispo(lp: float, q: float, a: float, *, held: float | None = None) -> float:
    """held: the log-probability that the ratio is taken at, since no gradient goes through it."""
    ratio = math.exp((lp if held is None else held) - q)
    return -(LOW if ratio < LOW else HIGH if ratio > HIGH else ratio) * lp * a


def dro(lp: float, q: float, a: float) -> float:
    return -(lp * a - BETA / 2 * (lp - q) ** 2)


POLICY: dict[str, tuple[Formula, dict[str, float]]] = {
    "importance_sampling": (importance_sampling, {}),
    "ppo": (ppo, {"clip_low_threshold": LOW, "clip_high_threshold": HIGH}),
    "cispo": (cispo, {"clip_low_threshold": LOW, "clip_high_threshold": HIGH}),
    "dro": (dro, {"beta": BETA}),
}
RATIOS = [0.01, 0.5, LOW - 1e-3, LOW + 1e-3, 0.999, 1.0, 1.001, HIGH - 1e-3, HIGH + 1e-3, 2.0, 40.0]
ADVANTAGES = [-3.0, -0.25, 0.0, 0.25, 3.0]


def points() -> tuple[Array, Array, Array]:
    """Every ratio with every advantage, at log-probabilities from near 0 to far below."""
    grid = [(lp, ratio, a) for lp in (-0.02, -1.3, -11.0) for ratio in RATIOS for a in ADVANTAGES]
    lp, ratio, a = (np.array(column) for column in zip(*grid, strict=True))
    return lp, lp - np.log(ratio), a


def terms_and_slopes(name: str, settings: dict[str, float], trained: Array, **inputs: Array) -> tuple[Array, Array]:
    """What `recipes.losses` says, in float64."""
    loss = losses.get(name)
    leaf = torch.tensor(trained, dtype=torch.float64, requires_grad=True)
    tensors = {key: torch.tensor(values, dtype=torch.float64) for key, values in inputs.items()}
    terms = loss.terms(leaf, tensors, losses.settings_of(loss, settings))
    torch.autograd.backward(terms.sum())
    assert leaf.grad is not None
    return terms.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("name", POLICY)
def test_a_policy_loss_is_the_formula_at_every_point_and_its_slope_the_difference(name: str) -> None:
    formula, settings = POLICY[name]
    logprobs, sampled, advantages = points()
    terms, slopes = terms_and_slopes(name, settings, logprobs, logprobs=sampled, advantages=advantages)
    for lp, q, a, term, slope in zip(logprobs, sampled, advantages, terms, slopes, strict=True):
        assert term == pytest.approx(formula(lp, q, a), rel=1e-12, abs=1e-15)
        held = {"held": lp} if name == "cispo" else {}
        difference = (formula(lp + STEP, q, a, **held) - formula(lp - STEP, q, a, **held)) / (2 * STEP)
        assert slope == pytest.approx(difference, rel=1e-5, abs=1e-7), (lp, math.exp(lp - q), a)


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_cross_entropy_is_the_weighted_sum_over_targets_of_either_shape(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    logprobs, weights = -rng.exponential(2.0, shape), rng.normal(0, 1, shape)
    weights.flat[::3] = 0.0
    assert (weights < 0).any() and (weights > 0).any()
    terms, slopes = terms_and_slopes("cross_entropy", {}, logprobs, weights=weights)
    for lp, w, term, slope in zip(logprobs.ravel(), weights.ravel(), terms.ravel(), slopes.ravel(), strict=True):
        assert term == pytest.approx(cross_entropy(lp, w), rel=1e-12)
        difference = (cross_entropy(lp + STEP, w) - cross_entropy(lp - STEP, w)) / (2 * STEP)
        assert slope == pytest.approx(difference, rel=1e-6, abs=1e-9)
    assert terms.shape == slopes.shape == shape


@pytest.mark.parametrize("advantage", [-2.0, 2.0])
@pytest.mark.parametrize("bound", [LOW, HIGH])
@pytest.mark.parametrize("name", ["ppo", "cispo"])
def test_at_a_bound_itself_the_slope_lies_between_those_of_both_sides(name: str, bound: float, advantage: float) -> None:
    lp = -1.0
    _, (below, at, above) = terms_and_slopes(
        name,
        POLICY[name][1],
        np.array([lp, lp, lp]),
        logprobs=lp - np.log(np.array([bound * (1 - 1e-9), bound, bound * (1 + 1e-9)])),
        advantages=np.full(3, advantage),
    )
    assert min(below, above) - 1e-6 <= at <= max(below, above) + 1e-6


def test_ppo_stops_where_its_ratio_has_gone_too_far_the_right_way_and_pulls_back_where_it_went_the_wrong_way() -> None:
    ratios, advantages = np.array([2.0, 2.0, 0.5, 0.5]), np.array([1.0, -1.0, 1.0, -1.0])
    _, slopes = terms_and_slopes("ppo", POLICY["ppo"][1], np.full(4, -1.0), logprobs=-1.0 - np.log(ratios), advantages=advantages)
    assert slopes.tolist() == pytest.approx([0.0, 2.0, -0.5, 0.0])


@pytest.mark.parametrize("name", POLICY)
def test_without_advantage_nothing_is_learnt_but_to_stay(name: str) -> None:
    logprobs, sampled, _ = points()
    terms, slopes = terms_and_slopes(name, POLICY[name][1], logprobs, logprobs=sampled, advantages=np.zeros_like(logprobs))
    if name == "dro":
        assert slopes == pytest.approx(BETA * (logprobs - sampled))
    else:
        assert not terms.any() and not slopes.any()


@pytest.mark.parametrize("short", ["logprobs", "advantages", "target_tokens"])
@pytest.mark.parametrize("name", POLICY)
def test_lengths_that_differ_are_refused_by_every_policy_loss(name: str, short: str) -> None:
    inputs: dict[str, Any] = {
        "target_tokens": int_array([4, 5, 6]),
        "logprobs": float_array([-1, -2, -3]),
        "advantages": float_array([0, 1, -1]),
    }
    losses.check([Datum(int_array([1, 2, 3]), inputs)], losses.get(name), vocab_size=10)
    with pytest.raises(DataError, match=f"Datum 0: {short} has the shape"):
        cut = inputs | {short: inputs[short][:2]}
        losses.check([Datum(int_array([1, 2, 3]), cut)], losses.get(name), vocab_size=10)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 2), (3, 2, 1)])
def test_weights_of_soft_targets_have_their_shape(shape: tuple[int, ...]) -> None:
    soft = {"target_tokens": np.ones((3, 2), dtype=np.int64), "weights": np.ones(shape, dtype=np.float32)}
    with pytest.raises(DataError, match=r"weights has the shape .*, not \(3, 2\) as its targets"):
        losses.check([Datum(int_array([1, 2, 3]), soft)], losses.get("cross_entropy"), vocab_size=10)
