"""AdamW against PyTorch's plain one, against the formula in NumPy, and in the cases a formula does not cover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recipes.backends.local.optimizer import Optimizer
from recipes.errors import BackendError
from recipes.types import AdamParams, Datum
from tests.recipes.backends.local.tiny_models import datums, tiny_engine, tiny_model

ADAM = AdamParams(learning_rate=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.1, grad_clip_norm=0.5)


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in (("a", (4, 3)), ("b", (5,)))
    }


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {
        "a": torch.randn((4, 3), generator=generator, dtype=torch.float64),
        "b": torch.randn(5, generator=generator, dtype=torch.float64),
    }


def give(own: dict[str, nn.Parameter], step: int) -> None:
    for name, gradient in gradients(step).items():
        own[name].grad = gradient


def test_ten_steps_with_a_moving_rate_are_those_of_pytorchs_adamw() -> None:
    own, theirs = parameters(), parameters()
    optimizer = Optimizer(own)
    reference = torch.optim.AdamW(theirs.values(), lr=0.0, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    for step in range(10):
        rate = 0.01 * (step + 1)
        give(own, step)
        give(theirs, step)
        reference.param_groups[0]["lr"] = rate
        norm = nn.utils.clip_grad_norm_(list(theirs.values()), 0.5)
        reference.step()
        metrics = optimizer.step(AdamParams(rate, 0.8, 0.9, 1e-6, 0.1, 0.5))
        assert metrics == {"optim/grad_norm": pytest.approx(float(norm))}
    for name in own:
        torch.testing.assert_close(own[name], theirs[name])
    assert optimizer.num_steps == 10


def test_the_steps_are_those_of_the_paper_in_numpy() -> None:
    own = parameters()
    weights = {name: parameter.detach().numpy().copy() for name, parameter in own.items()}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    optimizer = Optimizer(own)
    for step in range(1, 6):
        give(own, step)
        given = {name: gradient.numpy() for name, gradient in gradients(step).items()}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in given.values()))
        scale = min(1.0, 0.5 / norm)
        for name, gradient in given.items():
            clipped = gradient * scale
            first[name] = 0.8 * first[name] + 0.2 * clipped
            second[name] = 0.9 * second[name] + 0.1 * clipped**2
            unbiased = first[name] / (1 - 0.8**step), second[name] / (1 - 0.9**step)
            weights[name] = weights[name] * (1 - 0.01 * 0.1) - 0.01 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-6)
        assert optimizer.step(ADAM)["optim/grad_norm"] == pytest.approx(norm)
    for name, parameter in own.items():
        np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-5)


def test_a_gradient_within_the_bound_is_not_scaled_and_zero_means_no_bound() -> None:
    moved = []
    for clip in (0.0, 1e6):
        own = parameters()
        give(own, 1)
        Optimizer(own).step(AdamParams(0.01, grad_clip_norm=clip))
        moved.append(own["a"].detach())
    assert torch.equal(moved[0], moved[1])


def test_a_gradient_that_is_not_finite_is_reported_and_never_written() -> None:
    own = parameters()
    optimizer = Optimizer(own)
    give(own, 1)
    optimizer.step(ADAM)
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    moments = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    give(own, 2)
    own["a"].grad = torch.full((4, 3), float("nan"), dtype=torch.float64)
    metrics = optimizer.step(ADAM)
    assert np.isnan(metrics["optim/grad_norm"])
    assert metrics["optim/skipped_nonfinite"] == 1
    assert all(torch.equal(own[name], before[name]) for name in own)
    assert all(torch.equal(tensor, moments[name]) for name, tensor in optimizer.tensors().items())
    assert own["b"].grad is None, "the bad gradient is gone"


def test_a_step_without_a_gradient_moves_nothing(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    engine.forward_backward(datums(), "cross_entropy")
    engine.optim_step(ADAM)
    before = {name: parameter.detach().clone() for name, parameter in engine.parameters.items()}
    result = engine.optim_step(ADAM)
    assert result.metrics == {"optim/grad_norm": 0.0, "optim/skipped_no_gradient": 1.0}
    assert all(torch.equal(parameter, before[name]) for name, parameter in engine.parameters.items())


def test_a_batch_in_which_no_weight_counts_is_a_step_with_gradient_zero(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    silent = [
        Datum(datum.model_input, {**datum.loss_fn_inputs, "weights": np.zeros(datum.num_tokens, dtype=np.float32)})
        for datum in datums()
    ]
    before = {name: parameter.detach().clone() for name, parameter in engine.parameters.items()}
    engine.forward_backward(silent, "cross_entropy")
    result = engine.optim_step(AdamParams(0.1, weight_decay=0.5))
    assert result.metrics == {"optim/grad_norm": 0.0}
    for name, parameter in engine.parameters.items():
        torch.testing.assert_close(parameter.detach(), before[name] * 0.95)


def test_a_pass_that_failed_takes_the_gradient_before_it_along(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in engine.parameters.items()}
    engine.forward_backward(datums(), "cross_entropy")
    with pytest.raises(ValueError, match="my own mistake"):
        engine.forward_backward(datums(), lambda *_: (_ for _ in ()).throw(ValueError("my own mistake")))
    with pytest.raises(BackendError, match="my own mistake") as caught:
        engine.optim_step(ADAM)
    assert caught.value.permanent
    assert all(torch.equal(parameter, before[name]) for name, parameter in engine.parameters.items())
    engine.forward_backward(datums(), "cross_entropy")
    assert engine.optim_step(ADAM).metrics["optim/grad_norm"] > 0
