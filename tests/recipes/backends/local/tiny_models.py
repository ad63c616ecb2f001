"""Random models of a few thousand weights, of several architectures, and datums for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from recipes.backends.local.config import LocalConfig
from recipes.backends.local.engine import Engine
from recipes.types import Datum, float_array, int_array

VOCAB_SIZE = 61
MAX_POSITIONS = 64

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": MAX_POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


def _gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB_SIZE,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=MAX_POSITIONS,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.2,
        )
    )


MODELS: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_COMMON, head_dim=16, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_COMMON, tie_word_embeddings=False)),
    "gpt2": _gpt2,
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**{key: value for key, value in _COMMON.items() if key != "num_key_value_heads"})
    ),
    "gemma2 with capped logits": lambda: Gemma2ForCausalLM(
        Gemma2Config(**_COMMON, head_dim=16, final_logit_softcapping=3.0, sliding_window=8)
    ),
    "cohere with scaled logits": lambda: CohereForCausalLM(CohereConfig(**_COMMON, logit_scale=0.25)),
}


def tiny_model(kind: str = "qwen3", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(3)
    return MODELS[kind]().to(dtype).eval()


def tiny_engine(model: Any, folder: Path, *, lora_rank: int = 4, perturb: bool = True, **settings: Any) -> Engine:
    """An engine on the model. Adapters begin as nothing; `perturb` makes them something, so that they count."""
    engine = Engine(
        model,
        LocalConfig(num_threads=1, **settings),
        model_name="tiny",
        output_dir=folder,
        lora_rank=lora_rank,
        seed=5,
    )
    if perturb:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in engine.parameters.items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return engine


def datums(count: int = 6, seed: int = 0, *, num_targets: int = 0) -> list[Datum]:
    """Rows of 3 to 39 tokens; a third of the positions has a weight, negative ones among them. `num_targets` K makes (N, K)."""
    rng = np.random.default_rng(seed)
    data = []
    for _ in range(count):
        length = int(rng.integers(3, 40))
        shape = (length, num_targets) if num_targets else (length,)
        weights = (rng.random(shape) > 0.6) * rng.normal(size=shape)
        targets = rng.integers(0, VOCAB_SIZE, shape)
        data.append(
            Datum(
                int_array(rng.integers(0, VOCAB_SIZE, length)),
                {"target_tokens": int_array(targets), "weights": float_array(weights)},
            )
        )
    return data


def rl_datums(count: int = 6, seed: int = 0) -> list[Datum]:
    """The same rows with sampler log-probabilities near those of a random model, and advantages, half of them 0."""
    rng = np.random.default_rng(seed + 100)
    return [
        Datum(
            datum.model_input,
            {
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "logprobs": float_array(-4 + rng.normal(size=datum.num_tokens)),
                "advantages": float_array(rng.normal(size=datum.num_tokens) * (rng.random(datum.num_tokens) > 0.5)),
            },
        )
        for datum in datums(count, seed)
    ]


def plain_logprobs(model: Any, datum: Datum) -> torch.Tensor:
    """log p of the targets by the model's own forward pass on this row alone: (N,) or (N, K), with gradient."""
    logits: torch.Tensor = model(input_ids=torch.from_numpy(datum.model_input)[None]).logits[0]
    targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])
    chosen = logits.log_softmax(-1).gather(1, targets.reshape(len(targets), -1))
    return chosen.reshape(targets.shape)


def taken_gradients(engine: Engine) -> dict[str, torch.Tensor]:
    """What has accumulated, taken away from the parameters."""
    gradients = {}
    for name, parameter in engine.parameters.items():
        gradients[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        parameter.grad = None
    return gradients


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Relative to the norm of all of the second."""
    assert first.keys() == second.keys()
    total = torch.sqrt(sum((value.double() ** 2).sum() for value in second.values()))  # type: ignore[arg-type]
    return max(float((first[name] - second[name]).double().norm() / total) for name in first)
