"""bfloat16 computes roughly the same, and what is trained stays float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipes.types import AdamParams, Datum
from tests.recipes.backends.local.tiny_models import datums, largest_difference, taken_gradients, tiny_engine, tiny_model


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_bfloat16_is_near_float32(kind: str, lora_rank: int, tmp_path: Path) -> None:
    exact = tiny_engine(tiny_model(kind), tmp_path, lora_rank=lora_rank)
    model = tiny_model(kind, torch.bfloat16 if lora_rank else torch.float32)
    rough = tiny_engine(model, tmp_path, lora_rank=lora_rank, dtype="bfloat16")
    data = datums()
    for one, other in zip(exact.forward(data).loss_fn_outputs, rough.forward(data).loss_fn_outputs, strict=True):
        assert np.abs(one["logprobs"] - other["logprobs"]).mean() < 0.05
    for engine in (exact, rough):
        engine.forward_backward(data, "cross_entropy")
    gradients = taken_gradients(rough)
    assert largest_difference(gradients, taken_gradients(exact)) < 0.05
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


def test_bfloat16_learns_and_saves_float32(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(dtype=torch.bfloat16), tmp_path, dtype="bfloat16")
    data = [
        Datum(datum.model_input, {**datum.loss_fn_inputs, "weights": np.ones(datum.num_tokens, dtype=np.float32)})
        for datum in datums(3)
    ]
    losses = []
    for _ in range(5):
        losses.append(engine.forward_backward(data, "cross_entropy").metrics["loss:sum"])
        engine.optim_step(AdamParams(0.02))
    assert losses[-1] < 0.9 * losses[0]
    saved = load_file(engine.save_for_sampler("a") / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    _, merged = engine.snapshot()
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
