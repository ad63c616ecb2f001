"""Our words in the SDK's, and back. Imports the SDK, so only an open backend does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tinker

from recipes.types import (
    AdamParams,
    Array,
    Datum,
    ForwardBackwardResult,
    OptimStepResult,
    SampledSequence,
    SampleResult,
    SamplingParams,
    StopReason,
)


def datum_to_wire(datum: Datum) -> tinker.Datum:
    """Integers travel as int64, everything else as float32, whatever the key."""
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(datum.model_input.tolist()),
        loss_fn_inputs={key: _tensor(array) for key, array in datum.loss_fn_inputs.items()},
    )


def _tensor(array: Array) -> tinker.TensorData:
    values = np.ascontiguousarray(array)
    is_whole = values.dtype.kind in "iub"
    return tinker.TensorData(
        data=values.astype(np.int64 if is_whole else np.float32),
        dtype="int64" if is_whole else "float32",
        shape=list(values.shape),
    )


def loss_to_wire(name: str) -> Any:
    """Our names are the SDK's; it has them as literals."""
    return name


def adam_to_wire(adam: AdamParams) -> tinker.AdamParams:
    return tinker.AdamParams(
        learning_rate=adam.learning_rate,
        beta1=adam.beta1,
        beta2=adam.beta2,
        eps=adam.eps,
        weight_decay=adam.weight_decay,
        grad_clip_norm=adam.grad_clip_norm,
    )


def sampling_to_wire(params: SamplingParams, end_of_turn: Mapping[int, str]) -> tinker.SamplingParams:
    """A list of stops takes the place of the model's own end on this wire, so that end is put on the list.
    end_of_turn: the ids that end a turn, and how they read as text."""
    stop: list[str] | list[int] | None = None
    if params.stop and isinstance(params.stop[0], int):
        stop = [*(int(token) for token in params.stop), *end_of_turn]
    elif params.stop:
        stop = [*(str(text) for text in params.stop), *end_of_turn.values()]
    return tinker.SamplingParams(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        seed=params.seed,
        stop=stop,
    )


def gradient_from_wire(output: tinker.ForwardBackwardOutput, data: Sequence[Datum]) -> ForwardBackwardResult:
    """Every output in the shape of its datum's targets. Servers flatten (N, K)."""
    outputs = []
    for datum, found in zip(data, output.loss_fn_outputs, strict=True):
        arrays = {key: np.asarray(value.to_numpy()) for key, value in found.items()}
        targets = datum.loss_fn_inputs["target_tokens"]
        arrays["logprobs"] = np.asarray(arrays["logprobs"], dtype=np.float32).reshape(targets.shape)
        outputs.append(arrays)
    return ForwardBackwardResult(outputs, {key: float(value) for key, value in output.metrics.items()})


def optimizer_from_wire(response: tinker.OptimStepResponse) -> OptimStepResult:
    """`grad_norm` or `grad_norm:mean` of the server is our `optim/grad_norm`."""
    found: Mapping[str, Any] = response.metrics or {}
    return OptimStepResult(
        {f"optim/{key.partition(':')[0].removeprefix('optim/')}": float(value) for key, value in found.items()}
    )


def sample_from_wire(response: tinker.SampleResponse) -> SampleResult:
    return SampleResult(
        sequences=[_sequence(found) for found in response.sequences],
        prompt_logprobs=response.prompt_logprobs,
        topk_prompt_logprobs=response.topk_prompt_logprobs,
    )


def _sequence(found: tinker.SampledSequence) -> SampledSequence:
    # A sampler that reports no log-probabilities must not look like one that was certain of every token.
    logprobs = found.logprobs if found.logprobs is not None else [float("nan")] * len(found.tokens)
    reason = StopReason.STOP if found.stop_reason == "stop" else StopReason.LENGTH
    return SampledSequence(tokens=list(found.tokens), logprobs=list(logprobs), stop_reason=reason)
