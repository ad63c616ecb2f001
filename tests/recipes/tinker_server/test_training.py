"""Training through the official SDK: the numbers are the engine's own, runs do not meet, and order is kept."""

from __future__ import annotations

import numpy as np
import pytest
import tinker
import torch

from recipes.backends.local.engine import Engine
from recipes.backends.tinker import wire
from recipes.rendering import datum_of, load_tokenizer, render
from recipes.types import AdamParams, Datum
from tests.recipes.runs_under_test import chats

ADAM = tinker.AdamParams(learning_rate=0.01)
WAIT = 60


def datums(count: int = 3, *, scale: float = 1.0) -> list[Datum]:
    tokenizer = load_tokenizer("starter")
    made = [datum_of(render(row["messages"], tokenizer)) for row in chats(count)]
    return [
        Datum(each.model_input, {**each.loss_fn_inputs, "weights": np.float32(scale) * each.loss_fn_inputs["weights"]})
        for each in made
    ]


def sent(data: list[Datum]) -> list[tinker.Datum]:
    return [wire.datum_to_wire(datum) for datum in data]


def rl_datums(logprobs: list[np.ndarray], count: int = 3) -> list[Datum]:
    rng = np.random.default_rng(0)
    return [
        Datum(
            datum.model_input,
            {
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "logprobs": (found + rng.normal(0, 0.2, found.shape)).astype(np.float32),
                "advantages": (rng.normal(0, 1, found.shape) * datum.loss_fn_inputs["weights"]).astype(np.float32),
            },
        )
        for datum, found in zip(datums(count), logprobs, strict=True)
    ]


def test_loss_log_probabilities_and_steps_are_those_of_the_engine(training: tinker.TrainingClient, engine: Engine) -> None:
    data = datums()
    for step in range(3):
        gradient, update = training.forward_backward(sent(data), "cross_entropy"), training.optim_step(ADAM)
        there, moved = gradient.result(timeout=WAIT), update.result(timeout=WAIT)
        here = engine.forward_backward(data, "cross_entropy")
        norm = engine.optim_step(AdamParams(0.01, eps=ADAM.eps)).metrics["optim/grad_norm"]
        assert there.metrics["loss:sum"] == pytest.approx(here.metrics["loss:sum"], rel=1e-5), step
        assert moved.metrics is not None and moved.metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
        for mine, theirs in zip(here.loss_fn_outputs, there.loss_fn_outputs, strict=True):
            assert np.abs(theirs["logprobs"].to_numpy() - mine["logprobs"]).max() < 1e-5


@pytest.mark.parametrize(
    ("loss_fn", "config"),
    [
        ("importance_sampling", None),
        ("ppo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}),
        ("cispo", None),
        ("dro", {"beta": 0.05}),
    ],
)
def test_every_loss_is_the_engines(
    training: tinker.TrainingClient, engine: Engine, loss_fn: str, config: dict[str, float] | None
) -> None:
    known = [output["logprobs"] for output in engine.forward(datums()).loss_fn_outputs]
    data = rl_datums(known)
    gradient = training.forward_backward(sent(data), loss_fn, config)  # type: ignore[arg-type]
    update = training.optim_step(ADAM)
    here = engine.forward_backward(data, loss_fn, config)
    norm = engine.optim_step(AdamParams(0.01)).metrics["optim/grad_norm"]
    assert gradient.result(timeout=WAIT).metrics["loss:sum"] == pytest.approx(here.metrics["loss:sum"], rel=1e-5, abs=1e-5)
    metrics = update.result(timeout=WAIT).metrics
    assert metrics is not None and metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_losses_are_sums_and_negative_weights_turn_the_gradient_round(training: tinker.TrainingClient) -> None:
    still = tinker.AdamParams(learning_rate=0.0)

    def measured(scale: float) -> tuple[float, float]:
        gradient = training.forward_backward(sent(datums(scale=scale)), "cross_entropy")
        update = training.optim_step(still)
        metrics = update.result(timeout=WAIT).metrics
        assert metrics is not None
        return gradient.result(timeout=WAIT).metrics["loss:sum"], metrics["grad_norm"]

    loss, norm = measured(1.0)
    assert measured(10.0) == (pytest.approx(10 * loss, rel=1e-5), pytest.approx(10 * norm, rel=1e-4))
    assert measured(-1.0) == (pytest.approx(-loss, rel=1e-5), pytest.approx(norm, rel=1e-4))


def test_soft_targets_travel_dense_and_sparse(training: tinker.TrainingClient, engine: Engine) -> None:
    datum = datums(1)[0]
    num_tokens = datum.num_tokens
    targets = np.stack([datum.loss_fn_inputs["target_tokens"], np.arange(num_tokens) % 50 + 1], axis=1)
    weights = np.stack([np.full(num_tokens, 0.75), np.full(num_tokens, 0.25)], axis=1).astype(np.float32)
    here = engine.forward([Datum(datum.model_input, {"target_tokens": targets, "weights": weights})])
    dense = wire.datum_to_wire(Datum(datum.model_input, {"target_tokens": targets, "weights": weights}))
    sparse = tinker.Datum(
        model_input=dense.model_input,
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_torch_sparse(torch.from_numpy(targets)),
            "weights": tinker.TensorData.from_torch_sparse(torch.from_numpy(weights)),
        },
    )
    for way in (dense, sparse):
        there = training.forward([way], "cross_entropy").result(timeout=WAIT)
        assert there.metrics["loss:sum"] == pytest.approx(here.metrics["loss:sum"], rel=1e-5)


def test_a_custom_loss_runs_here_and_its_gradient_there(training: tinker.TrainingClient, engine: Engine) -> None:
    data = datums()

    def squares(_: list[tinker.Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        return torch.stack([(each**2).sum() for each in logprobs]).sum(), {}

    gradient, update = training.forward_backward_custom(sent(data), squares), training.optim_step(ADAM)
    here = engine.forward_backward(data, lambda output, meta: (output.logprobs**2).sum())
    norm = engine.optim_step(AdamParams(0.01)).metrics["optim/grad_norm"]
    assert gradient.result(timeout=WAIT).metrics["loss:sum"] == pytest.approx(here.metrics["loss:sum"], rel=1e-5)
    metrics = update.result(timeout=WAIT).metrics
    assert metrics is not None and metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_two_adapters_on_one_base_do_not_meet(service: tinker.ServiceClient) -> None:
    data = sent(datums())
    one, two = [service.create_lora_training_client("starter", rank=4, seed=3).result(timeout=WAIT) for _ in range(2)]
    untouched = two.forward(data, "cross_entropy").result(timeout=WAIT).metrics["loss:sum"]
    for _ in range(3):
        one.forward_backward(data, "cross_entropy")
        one.optim_step(ADAM).result(timeout=WAIT)
    assert one.forward(data, "cross_entropy").result(timeout=WAIT).metrics["loss:sum"] < untouched
    assert two.forward(data, "cross_entropy").result(timeout=WAIT).metrics["loss:sum"] == untouched
    base = service.create_sampling_client(base_model="starter").result(timeout=WAIT)
    prompt = tinker.ModelInput.from_ints(datums(1)[0].model_input.tolist())
    before = base.compute_logprobs(prompt).result(timeout=WAIT)
    assert before == pytest.approx(
        service.create_sampling_client(base_model="starter").result(timeout=WAIT).compute_logprobs(prompt).result(timeout=WAIT)
    )
