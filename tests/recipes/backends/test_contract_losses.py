"""Every loss on every backend: the log-probability of each target comes back, and the loss is the formula of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recipes.protocols import Backend
from recipes.types import Array, Datum, float_array
from tests.recipes.backends.conftest import datums

LOW, HIGH, BETA = 0.9, 1.1, 0.2
POLICY: dict[str, tuple[dict[str, float] | None, Any]] = {
    "importance_sampling": (None, lambda lp, q, a: -np.exp(lp - q) * a),
    "ppo": (
        {"clip_low_threshold": LOW, "clip_high_threshold": HIGH},
        lambda lp, q, a: -np.minimum(np.exp(lp - q) * a, np.clip(np.exp(lp - q), LOW, HIGH) * a),
    ),
    "cispo": (
        {"clip_low_threshold": LOW, "clip_high_threshold": HIGH},
        lambda lp, q, a: -np.clip(np.exp(lp - q), LOW, HIGH) * lp * a,
    ),
    "dro": ({"beta": BETA}, lambda lp, q, a: -(lp * a - BETA / 2 * (lp - q) ** 2)),
}


async def known_logprobs(backend: Backend, data: list[Datum]) -> list[Array]:
    result = await backend.forward_async(data)
    return [np.asarray(output["logprobs"], np.float64) for output in result.loss_fn_outputs]


@pytest.mark.parametrize("name", POLICY)
def test_a_policy_loss_gives_log_probabilities_and_the_sum_of_its_formula(play: Any, name: str) -> None:
    settings, formula = POLICY[name]

    async def scenario(backend: Backend) -> None:
        data = datums(backend, 2)
        known = await known_logprobs(backend, data)
        rng = np.random.default_rng(5)
        sent = []
        for datum, logprobs in zip(data, known, strict=True):
            said = datum.loss_fn_inputs["weights"] != 0
            inputs = {
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "logprobs": float_array(np.where(said, logprobs + rng.normal(0, 0.3, logprobs.shape), logprobs)),
                "advantages": float_array(np.where(said, rng.normal(0, 1, logprobs.shape), 0.0)),
            }
            sent.append(Datum(datum.model_input, inputs))
        result = await backend.forward_backward_async(sent, loss_fn=name, loss_fn_config=settings)
        expected = 0.0
        for datum, logprobs, output in zip(sent, known, result.loss_fn_outputs, strict=True):
            assert output["logprobs"] == pytest.approx(logprobs, abs=1e-4), "also where nothing is trained"
            q, a = (datum.loss_fn_inputs[key].astype(np.float64) for key in ("logprobs", "advantages"))
            expected += float(formula(logprobs, q, a).sum())
        assert result.metrics["loss:sum"] == pytest.approx(expected, rel=1e-3, abs=1e-3)

    play(scenario)


def test_soft_targets_give_one_log_probability_each_and_negative_weights_count(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        (datum,) = datums(backend, 1)
        (known,) = await known_logprobs(backend, [datum])
        hard = datum.loss_fn_inputs["target_tokens"]
        targets = np.stack([hard, np.roll(hard, 1), np.zeros_like(hard)], axis=1)
        weights = float_array(np.random.default_rng(6).normal(0, 1, targets.shape))
        weights[0] = 0
        soft = Datum(datum.model_input, {"target_tokens": targets, "weights": weights})
        result = await backend.forward_backward_async([soft], loss_fn="cross_entropy")
        logprobs = np.asarray(result.loss_fn_outputs[0]["logprobs"], np.float64)
        assert logprobs.shape == targets.shape and logprobs[:, 0] == pytest.approx(known, abs=1e-4)
        assert result.metrics["loss:sum"] == pytest.approx(-float((weights * logprobs).sum()), rel=1e-3, abs=1e-3)

    play(scenario)
