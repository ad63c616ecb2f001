"""Our words in those of Fireworks' training SDK, and back. Imports the SDK, so only an open backend does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fireworks.training import sdk

from recipes.types import AdamParams, Array, Datum, ForwardBackwardResult, OptimStepResult


def datum_to_wire(datum: Datum) -> Any:
    """Integers travel as int64, everything else as float32, whatever the key."""
    return sdk.Datum(
        model_input=sdk.ModelInput.from_ints(datum.model_input.tolist()),
        loss_fn_inputs={key: _tensor(array) for key, array in datum.loss_fn_inputs.items()},
    )


def _tensor(array: Array) -> Any:
    is_whole = array.dtype.kind in "iub"
    values = np.ascontiguousarray(array, dtype=np.int64 if is_whole else np.float32)
    return sdk.TensorData(data=values.ravel().tolist(), dtype="int64" if is_whole else "float32", shape=list(values.shape))


def adam_to_wire(adam: AdamParams) -> Any:
    return sdk.AdamParams(
        learning_rate=adam.learning_rate,
        beta1=adam.beta1,
        beta2=adam.beta2,
        eps=adam.eps,
        weight_decay=adam.weight_decay,
        grad_clip_norm=adam.grad_clip_norm,
    )


def gradient_from_wire(output: Any, data: Sequence[Datum]) -> ForwardBackwardResult:
    """Every output in the shape of its datum's targets. What the service does not tell per token is left out."""
    outputs = []
    for datum, found in zip(data, output.loss_fn_outputs, strict=True):
        arrays = {key: np.asarray(value.data) for key, value in found.items() if hasattr(value, "data")}
        if "logprobs" in arrays:
            arrays["logprobs"] = arrays["logprobs"].astype(np.float32).reshape(datum.loss_fn_inputs["target_tokens"].shape)
        outputs.append(arrays)
    return ForwardBackwardResult(outputs, {key: float(value) for key, value in (output.metrics or {}).items()})


def optimizer_from_wire(response: Any) -> OptimStepResult:
    """`grad_norm` of the service is our `optim/grad_norm`."""
    found = getattr(response, "metrics", None) or {}
    return OptimStepResult(
        {f"optim/{key.partition(':')[0].removeprefix('optim/')}": float(value) for key, value in found.items()}
    )
