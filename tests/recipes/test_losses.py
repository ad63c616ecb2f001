"""The named losses against their formulas in NumPy, and every way a batch is refused before anything is computed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from recipes import losses
from recipes.errors import ConfigError, DataError
from recipes.types import Array, Datum, float_array, int_array

LOW, HIGH, BETA = 0.7, 1.4, 0.3
NUM_POSITIONS = 200


def sample() -> tuple[Array, Array, Array]:
    """Log-probabilities, those of the sampler near them, and advantages: ratios fall within the bounds and beyond."""
    rng = np.random.default_rng(2)
    logprobs = -rng.exponential(2.0, NUM_POSITIONS)
    return logprobs, logprobs + rng.normal(0, 0.6, NUM_POSITIONS), rng.normal(size=NUM_POSITIONS)


FORMULAS: dict[str, tuple[dict[str, float], Any]] = {
    "importance_sampling": ({}, lambda lp, q, a: -(np.exp(lp - q) * a)),
    "ppo": (
        {"clip_low_threshold": LOW, "clip_high_threshold": HIGH},
        lambda lp, q, a: -np.minimum(np.exp(lp - q) * a, np.clip(np.exp(lp - q), LOW, HIGH) * a),
    ),
    "cispo": (
        {"clip_low_threshold": LOW, "clip_high_threshold": HIGH},
        lambda lp, q, a: -(np.clip(np.exp(lp - q), LOW, HIGH) * lp * a),
    ),
    "dro": ({"beta": BETA}, lambda lp, q, a: -(lp * a - BETA / 2 * (lp - q) ** 2)),
}
SLOPES: dict[str, Any] = {
    "importance_sampling": lambda r, lp, q, a: -r * a,
    "ppo": lambda r, lp, q, a: np.where(np.where(a > 0, r < HIGH, r > LOW), -r * a, 0.0),
    "cispo": lambda r, lp, q, a: -np.clip(r, LOW, HIGH) * a,
    "dro": lambda r, lp, q, a: -(a - BETA * (lp - q)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_policy_loss_and_its_slope_are_the_formulas(name: str) -> None:
    logprobs, sampled, advantages = sample()
    settings, formula = FORMULAS[name]
    loss = losses.get(name)
    leaf = torch.tensor(logprobs, requires_grad=True)
    inputs = {"logprobs": torch.tensor(sampled), "advantages": torch.tensor(advantages)}
    terms = loss.terms(leaf, inputs, losses.settings_of(loss, settings))
    np.testing.assert_allclose(terms.detach().numpy(), formula(logprobs, sampled, advantages), rtol=1e-12)
    torch.autograd.backward(terms.sum())
    assert leaf.grad is not None
    ratio = np.exp(logprobs - sampled)
    np.testing.assert_allclose(leaf.grad.numpy(), SLOPES[name](ratio, logprobs, sampled, advantages), rtol=1e-9, atol=1e-12)


def test_cross_entropy_weighs_each_target_and_a_negative_weight_pushes_away() -> None:
    leaf = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    terms = losses.get("cross_entropy").terms(leaf, {"weights": torch.tensor([0.5, 0.0, -2.0])}, {})
    assert terms.tolist() == [0.5, 0.0, -6.0]
    torch.autograd.backward(terms.sum())
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [-0.5, 0.0, 2.0]


def test_defaults_are_the_documented_ones() -> None:
    defaults = {name: losses.settings_of(loss, None) for name, loss in losses.LOSSES.items()}
    assert defaults == {
        "cross_entropy": {},
        "importance_sampling": {},
        "ppo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
        "cispo": {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
        "dro": {"beta": 0.1},
    }


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("ppo", {"clip_low_threshold": 1.3}, "lies above"),
        ("ppo", {"epsilon": 0.2}, "no setting 'epsilon'"),
        ("ppo", {"clip_high_threshold": float("nan")}, "number from 0 on"),
        ("ppo", {"clip_high_threshold": -1}, "number from 0 on"),
        ("dro", {"beta": "0.1"}, "number from 0 on"),
        ("cross_entropy", {"beta": 0.1}, "it has: none"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        losses.settings_of(losses.get(name), given)


def test_an_unknown_loss_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="cross_entropy, importance_sampling, ppo, cispo, dro"):
        losses.get("mse")


def good_inputs() -> dict[str, Array]:
    return {"target_tokens": int_array([4, 5, 6]), "weights": float_array([0, 1, 1])}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": None}, "Datum 1 lacks weights"),
        ({"target_tokens": None}, "Datum 1 lacks target_tokens"),
        ({"mask": float_array([1, 1, 1])}, "has mask, which the loss cross_entropy does not take"),
        ({"weights": float_array([1, 1])}, r"weights has the shape \(2,\), not \(3,\)"),
        ({"weights": np.ones((3, 1), dtype=np.float32)}, r"weights has the shape \(3, 1\), not \(3,\)"),
        ({"target_tokens": int_array([4, 5])}, r"target_tokens has the shape \(2,\)"),
        ({"target_tokens": np.zeros((3, 0), dtype=np.int64)}, r"target_tokens has the shape \(3, 0\)"),
        ({"target_tokens": np.zeros((3, 2, 2), dtype=np.int64)}, "target_tokens has the shape"),
        ({"target_tokens": int_array([4, 10, 6])}, "holds the id 10; the model's vocabulary ends at 9"),
        ({"target_tokens": int_array([4, -100, 6])}, "holds the id -100"),
        ({"target_tokens": np.array([4.0, 5.0, 6.0])}, "not whole token ids"),
        ({"weights": float_array([0, np.nan, 1])}, "not finite"),
        ({"weights": float_array([0, np.inf, 1])}, "not finite"),
    ],
)
def test_a_datum_that_does_not_fit_its_loss_is_refused(changes: dict[str, Array | None], message: str) -> None:
    inputs = {name: values for name, values in {**good_inputs(), **changes}.items() if values is not None}
    data = [Datum(int_array([1, 2, 3]), good_inputs()), Datum(int_array([1, 2, 3]), inputs)]
    with pytest.raises(DataError, match=message):
        losses.check(data, losses.get("cross_entropy"), vocab_size=10)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (int_array([]), "at least one token"),
        (np.array([[1, 2, 3]]), "at least one token"),
        (int_array([1, 2, 11]), "model_input holds the id 11"),
        (np.array([1.0, 2.0, 3.0]), "not whole token ids"),
        (int_array(range(5)), "has 5 tokens; the model reads at most 4"),
    ],
)
def test_token_ids_that_the_model_cannot_read_are_refused(ids: Array, message: str) -> None:
    with pytest.raises(DataError, match=message):
        losses.check([Datum(ids, good_inputs())], losses.get("cross_entropy"), vocab_size=10, max_positions=4)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(DataError, match="no datum"):
        losses.check([], losses.get("cross_entropy"), vocab_size=10)


def test_soft_targets_belong_to_cross_entropy_alone() -> None:
    soft = {"target_tokens": np.array([[1, 2], [3, 4], [5, 6]]), "weights": np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)}
    losses.check([Datum(int_array([1, 2, 3]), soft)], losses.get("cross_entropy"), vocab_size=10)
    values = float_array(np.ones((3, 2)))
    policy = {"target_tokens": soft["target_tokens"], "logprobs": values, "advantages": values}
    with pytest.raises(DataError, match=r"not \(3,\) as its tokens"):
        losses.check([Datum(int_array([1, 2, 3]), policy)], losses.get("ppo"), vocab_size=10)


def test_a_custom_loss_may_bring_inputs_of_its_own() -> None:
    inputs = {**good_inputs(), "margin": float_array([3.0])}
    losses.check([Datum(int_array([1, 2, 3]), inputs)], None, vocab_size=10)
    with pytest.raises(DataError, match="target_tokens, which a custom loss needs"):
        losses.check([Datum(int_array([1, 2, 3]), {"margin": inputs["margin"]})], None, vocab_size=10)


def test_the_module_and_its_checks_need_no_torch() -> None:
    program = (
        "import sys, numpy as np\n"
        "from recipes import losses\n"
        "from recipes.types import Datum\n"
        "d = Datum(np.array([1]), {'target_tokens': np.array([2]), 'weights': np.array([1.0])})\n"
        "losses.check([d], losses.get('cross_entropy'), vocab_size=5)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)
