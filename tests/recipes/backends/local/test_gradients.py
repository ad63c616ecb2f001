"""The engine's losses and gradients against plain PyTorch, row by row, and against arithmetic done independently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes import losses
from recipes.backends.local.engine import Engine
from recipes.backends.local.projection import Projection
from recipes.types import Datum, ModelOutput
from tests.recipes.backends.local.tiny_models import (
    MODELS,
    datums,
    largest_difference,
    plain_logprobs,
    rl_datums,
    taken_gradients,
    tiny_engine,
    tiny_model,
)


def plain_gradients(engine: Engine, data: list[Datum], loss_fn: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The same by the textbook: each row alone, the whole logits, autograd."""
    loss = losses.get(loss_fn)
    total = 0.0
    for datum in data:
        logprobs = plain_logprobs(engine.model, datum)
        inputs = {name: torch.from_numpy(datum.loss_fn_inputs[name]).to(logprobs.dtype) for name in loss.inputs}
        value = loss.terms(logprobs, inputs, losses.settings_of(loss, None)).sum()
        torch.autograd.backward(value)
        total += value.item()
    return total, taken_gradients(engine)


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_those_of_plain_pytorch(kind: str, lora_rank: int, tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(kind, torch.float64), tmp_path, lora_rank=lora_rank, max_tokens_per_micro_batch=64)
    assert engine._projection is not None, "the quick way is taken for this architecture"
    data = datums()
    result = engine.forward_backward(data, "cross_entropy")
    found = taken_gradients(engine)
    total, expected = plain_gradients(engine, data, "cross_entropy")
    assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-6)
    assert largest_difference(found, expected) < 1e-6


@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo", "cispo", "dro"])
def test_gradients_of_policy_losses_are_those_of_plain_pytorch(loss_fn: str, tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model("gpt2", torch.float64), tmp_path, max_tokens_per_micro_batch=64)
    data = rl_datums()
    result = engine.forward_backward(data, loss_fn)
    found = taken_gradients(engine)
    total, expected = plain_gradients(engine, data, loss_fn)
    assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-9)
    assert largest_difference(found, expected) < 1e-9


def test_a_projection_that_is_no_plain_linear_map_is_computed_from_the_models_own_logits(tmp_path: Path) -> None:
    model = tiny_model("llama", torch.float64)

    class Bent(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.sinh(super().forward(hidden))

    bent = Bent(32, 61, bias=False).to(torch.float64)
    bent.weight = model.lm_head.weight
    model.lm_head = bent
    engine = tiny_engine(model, tmp_path, max_tokens_per_micro_batch=64)
    assert engine._projection is None
    data = datums()
    result = engine.forward_backward(data, "cross_entropy")
    found = taken_gradients(engine)
    total, expected = plain_gradients(engine, data, "cross_entropy")
    assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-9)
    assert largest_difference(found, expected) < 1e-9


def test_the_gradient_agrees_with_the_slope_of_the_loss(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model("gpt2", torch.float64), tmp_path)
    data = rl_datums(3)
    engine.forward_backward(data, "importance_sampling")
    gradients = taken_gradients(engine)
    rng = np.random.default_rng(1)
    for name in rng.choice(sorted(engine.parameters), 4, replace=False):
        parameter, at = engine.parameters[name], tuple(rng.integers(0, engine.parameters[name].shape))
        values = []
        for move in (1e-6, -1e-6):
            with torch.no_grad():
                parameter[at] += move
                values.append(engine.forward(data, "importance_sampling").metrics["loss:sum"])
                parameter[at] -= move
        assert float(gradients[name][at]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("max_tokens", [1, 50, 90, 10_000])
def test_the_micro_batch_budget_changes_neither_loss_nor_gradient(max_tokens: int, tmp_path: Path) -> None:
    data = datums(9)
    reference = tiny_engine(tiny_model(dtype=torch.float64), tmp_path)
    expected = reference.forward_backward(data, "cross_entropy")
    engine = tiny_engine(tiny_model(dtype=torch.float64), tmp_path, max_tokens_per_micro_batch=max_tokens)
    found = engine.forward_backward(data, "cross_entropy")
    assert found.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-6)
    assert largest_difference(taken_gradients(engine), taken_gradients(reference)) < 1e-6
    for one, other in zip(found.loss_fn_outputs, expected.loss_fn_outputs, strict=True):
        np.testing.assert_allclose(one["logprobs"], other["logprobs"], rtol=1e-5)


def test_chunks_of_the_vocabulary_projection_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = datums()
    engine = tiny_engine(tiny_model(dtype=torch.float64), tmp_path, lora_rank=0)
    engine.forward_backward(data, "cross_entropy")
    expected = taken_gradients(engine)
    monkeypatch.setattr("recipes.backends.local.projection._CHUNK_ELEMENTS", {"cpu": 3 * 61})
    engine.forward_backward(data, "cross_entropy")
    assert largest_difference(taken_gradients(engine), expected) < 1e-9


def test_two_calls_add_up_to_one(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(dtype=torch.float64), tmp_path)
    data = datums()
    engine.forward_backward(data, "cross_entropy")
    expected = taken_gradients(engine)
    for datum in data:
        engine.forward_backward([datum], "cross_entropy")
    assert largest_difference(taken_gradients(engine), expected) < 1e-6


def test_soft_targets_are_the_weighted_sum_over_their_ids(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model("llama", torch.float64), tmp_path)
    soft = datums(4, num_targets=3)
    result = engine.forward_backward(soft, "cross_entropy")
    found = taken_gradients(engine)
    for column in range(3):
        hard = [
            Datum(datum.model_input, {name: values[:, column] for name, values in datum.loss_fn_inputs.items()}) for datum in soft
        ]
        outputs = engine.forward_backward(hard, "cross_entropy").loss_fn_outputs
        for datum, output, own in zip(soft, outputs, result.loss_fn_outputs, strict=True):
            assert own["logprobs"].shape == (datum.num_tokens, 3)
            np.testing.assert_allclose(own["logprobs"][:, column], output["logprobs"], rtol=1e-5)
    assert largest_difference(found, taken_gradients(engine)) < 1e-6


def test_hard_and_soft_targets_of_different_width_share_a_batch(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(dtype=torch.float64), tmp_path)
    mixed = [*datums(2), *datums(2, seed=1, num_targets=2), *datums(2, seed=2, num_targets=4)]
    result = engine.forward_backward(mixed, "cross_entropy")
    found = taken_gradients(engine)
    total = sum(engine.forward_backward([datum], "cross_entropy").metrics["loss:sum"] for datum in mixed)
    assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-6)
    assert largest_difference(found, taken_gradients(engine)) < 1e-6


def test_log_probabilities_are_the_models_own_also_where_weight_or_advantage_is_zero(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    for data, loss_fn in ((datums(), "cross_entropy"), (rl_datums(), "ppo")):
        for output, datum in zip(engine.forward_backward(data, loss_fn).loss_fn_outputs, data, strict=True):
            with torch.no_grad():
                expected = plain_logprobs(engine.model, datum).numpy()
            np.testing.assert_allclose(output["logprobs"], expected, atol=1e-5)


def test_the_loss_is_the_formula_applied_to_the_log_probabilities_in_numpy(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    data = rl_datums()
    result = engine.forward(data, "ppo", {"clip_low_threshold": 0.5, "clip_high_threshold": 1.5})
    total = 0.0
    for datum, output in zip(data, result.loss_fn_outputs, strict=True):
        ratio = np.exp(output["logprobs"].astype(float) - datum.loss_fn_inputs["logprobs"])
        advantages = datum.loss_fn_inputs["advantages"]
        total -= np.minimum(ratio * advantages, np.clip(ratio, 0.5, 1.5) * advantages).sum()
    assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-4)


def test_forward_computes_the_same_numbers_and_no_gradient(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    data = datums()
    forward = engine.forward(data, "cross_entropy")
    assert all(parameter.grad is None for parameter in engine.parameters.values())
    trained = engine.forward_backward(data, "cross_entropy")
    assert trained.metrics["loss:sum"] == pytest.approx(forward.metrics["loss:sum"], rel=1e-5)


def test_a_masked_position_cannot_spoil_the_loss(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    data = rl_datums(2)
    for datum in data:
        datum.loss_fn_inputs["logprobs"][datum.loss_fn_inputs["advantages"] == 0] = -1e5
    assert any((datum.loss_fn_inputs["advantages"] == 0).any() for datum in data)
    for loss_fn in ("importance_sampling", "ppo", "cispo"):
        trained = engine.forward_backward(data, loss_fn).metrics["loss:sum"]
        assert np.isfinite(trained)
        assert engine.forward(data, loss_fn).metrics["loss:sum"] == pytest.approx(trained, rel=1e-4)
        assert all(torch.isfinite(gradient).all() for gradient in taken_gradients(engine).values())


def test_a_row_without_weights_adds_nothing(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(dtype=torch.float64), tmp_path)
    data = datums(3)
    engine.forward_backward(data, "cross_entropy")
    expected = taken_gradients(engine)
    silent = Datum(data[0].model_input, {**data[0].loss_fn_inputs, "weights": np.zeros(data[0].num_tokens, dtype=np.float32)})
    result = engine.forward_backward([*data, silent], "cross_entropy")
    assert largest_difference(taken_gradients(engine), expected) < 1e-9
    assert (result.loss_fn_outputs[3]["logprobs"] < 0).all()


@pytest.mark.parametrize("kind", ["qwen3", "gemma2 with capped logits"])
def test_a_custom_loss_that_says_the_same_gives_the_same(kind: str, tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(kind, torch.float64), tmp_path, max_tokens_per_micro_batch=64)
    data = datums()
    named = engine.forward_backward(data, "cross_entropy")
    expected = taken_gradients(engine)

    def custom(model_output: ModelOutput, meta: Any) -> torch.Tensor:
        weighted: torch.Tensor = model_output.logprobs * meta["weights"]
        return -weighted.sum()

    result = engine.forward_backward(data, custom)
    assert result.metrics["loss:sum"] == pytest.approx(named.metrics["loss:sum"], rel=1e-6)
    assert largest_difference(taken_gradients(engine), expected) < 1e-6
    assert engine.forward(data, "cross_entropy").metrics["loss:sum"] == pytest.approx(named.metrics["loss:sum"], rel=1e-6)


def test_a_custom_loss_over_all_positions_of_a_datum_has_its_exact_gradient(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model("gpt2", torch.float64), tmp_path, max_tokens_per_micro_batch=64)
    data = datums(4)

    def focal(model_output: ModelOutput, meta: Any) -> torch.Tensor:
        logprobs: torch.Tensor = model_output.logprobs
        surprise: torch.Tensor = (1 - logprobs.exp()) ** 2 * logprobs
        return -surprise.mean()

    result = engine.forward_backward(data, focal)
    found = taken_gradients(engine)
    total = torch.stack([focal(ModelOutput(plain_logprobs(engine.model, datum)), {}) for datum in data]).sum()
    torch.autograd.backward(total)
    assert result.metrics["loss:sum"] == pytest.approx(total.item(), rel=1e-9)
    assert largest_difference(found, taken_gradients(engine)) < 1e-9


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    data = datums()
    plain = tiny_engine(tiny_model(dtype=torch.float64), tmp_path)
    thrifty = tiny_engine(tiny_model(dtype=torch.float64), tmp_path, gradient_checkpointing=True)
    for engine in (plain, thrifty):
        engine.forward_backward(data, "cross_entropy")
    assert thrifty.model.is_activation_checkpointing
    assert largest_difference(taken_gradients(thrifty), taken_gradients(plain)) < 1e-9


def test_logits_of_a_batch_are_never_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.backends.local.projection._CHUNK_ELEMENTS", {"cpu": 5 * 61})
    engine = tiny_engine(tiny_model(), tmp_path)
    seen: list[int] = []
    original = Projection.logits

    def counted(self: Projection, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return original(self, hidden)

    monkeypatch.setattr(Projection, "logits", counted)
    data = datums(8)
    engine.forward_backward(data, "cross_entropy")
    assert sum(seen) == sum(datum.num_tokens for datum in data), "each position is projected once"
    assert max(seen) <= 5
