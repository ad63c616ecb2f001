"""Named losses: the inputs each needs, its settings, its formula, and the checks that run before anything is computed.

Every loss is a SUM over positions and over datums; averaging is the caller's business, through weights and advantages.
Names, inputs and defaults are those of Tinker's public loss documentation (https://tinker-docs.thinkingmachines.ai/losses),
so that a recipe means the same on every backend. With lp the log-probability of the target under the weights in training,
q = `logprobs` the one it was sampled with, A = `advantages`, r = exp(lp − q):

- cross_entropy        −Σ w·lp; targets may be (N, K) with weights (N, K): a soft target is K weighted ids
- importance_sampling  −Σ r·A
- ppo                  −Σ min(r·A, clip(r, low, high)·A)                   (Schulman et al. 2017, arXiv:1707.06347)
- cispo                −Σ stopgrad(clip(r, low, high))·lp·A                 (MiniMax-M1 2025, arXiv:2506.13585)
- dro                  −Σ (lp·A − β/2·(lp − q)²)                            (Richemond et al. 2024, arXiv:2405.19107)

Thresholds are bounds on the ratio itself, not distances from 1. A position is masked by weight 0 or advantage 0: both are
values like any other, and its log-probability is still reported.

A custom loss is `loss(ModelOutput(logprobs), meta) -> scalar`, called per datum and summed (`recipes.types.LossCallable`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.errors import ConfigError, DataError
from recipes.types import Array, Datum

if TYPE_CHECKING:
    from torch import Tensor

    Terms = Callable[["Tensor", Mapping[str, "Tensor"], Mapping[str, float]], "Tensor"]

TARGETS = "target_tokens"


@dataclass(frozen=True, slots=True)
class Loss:
    """One named loss. `inputs` besides the targets; `settings` with their defaults; `gate`: the input without which a position
    has no gradient (None: every position may have one); `terms`: (P,) or (P, K) log-probabilities, inputs of the same shape
    and settings → the loss of each, same shape."""

    name: str
    inputs: tuple[str, ...]
    gate: str | None
    terms: Terms
    soft_targets: bool = False
    settings: Mapping[str, float] = field(default_factory=dict)


def _cross_entropy(logprobs: Tensor, inputs: Mapping[str, Tensor], settings: Mapping[str, float]) -> Tensor:
    """−w·lp, of (N,) or (N, K) targets; a negative weight pushes away."""
    return -inputs["weights"] * logprobs


def _importance_sampling(logprobs: Tensor, inputs: Mapping[str, Tensor], settings: Mapping[str, float]) -> Tensor:
    """−r·A, with slope −r·A."""
    return -(logprobs - inputs["logprobs"]).exp() * inputs["advantages"]


def _ppo(logprobs: Tensor, inputs: Mapping[str, Tensor], settings: Mapping[str, float]) -> Tensor:
    """−min(r·A, clip(r, low, high)·A): slope −r·A, but 0 where r has passed the bound that A pulls it towards."""
    import torch

    ratio = (logprobs - inputs["logprobs"]).exp()
    clipped = ratio.clamp(settings["clip_low_threshold"], settings["clip_high_threshold"])
    return -torch.minimum(ratio * inputs["advantages"], clipped * inputs["advantages"])


def _cispo(logprobs: Tensor, inputs: Mapping[str, Tensor], settings: Mapping[str, float]) -> Tensor:
    """−stopgrad(clip(r, low, high))·lp·A, with slope −clip(r, low, high)·A: clipped tokens go on to teach."""
    ratio = (logprobs - inputs["logprobs"]).exp().clamp(settings["clip_low_threshold"], settings["clip_high_threshold"])
    return -ratio.detach() * logprobs * inputs["advantages"]


def _dro(logprobs: Tensor, inputs: Mapping[str, Tensor], settings: Mapping[str, float]) -> Tensor:
    """−(lp·A − β/2·(lp − q)²), with slope −A + β·(lp − q): also without an advantage it is drawn back to q."""
    drift = logprobs - inputs["logprobs"]
    return -(logprobs * inputs["advantages"] - 0.5 * settings["beta"] * drift * drift)


_RL_INPUTS = ("logprobs", "advantages")

LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", ("weights",), "weights", _cross_entropy, soft_targets=True),
        Loss("importance_sampling", _RL_INPUTS, "advantages", _importance_sampling),
        Loss("ppo", _RL_INPUTS, "advantages", _ppo, settings={"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
        Loss("cispo", _RL_INPUTS, "advantages", _cispo, settings={"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}),
        Loss("dro", _RL_INPUTS, None, _dro, settings={"beta": 0.1}),
    )
}


def get(name: str) -> Loss:
    """The loss of that name. Raises ConfigError that lists the names there are."""
    if name not in LOSSES:
        raise ConfigError(
            f"There is no loss {name!r}. Choose one of: {', '.join(LOSSES)}, or give a callable.", path=("loss_fn",)
        )
    return LOSSES[name]


def settings_of(loss: Loss, given: Mapping[str, Any] | None) -> dict[str, float]:
    """The loss's settings, defaults filled in. Raises ConfigError for a name it does not have or a value it cannot take."""
    for key, value in (given or {}).items():
        if key not in loss.settings:
            known = ", ".join(loss.settings) or "none"
            raise ConfigError(f"The loss {loss.name} has no setting {key!r} (it has: {known}).", path=("loss_fn_config", key))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
            raise ConfigError(f"{key} is a number from 0 on, not {value!r}.", path=("loss_fn_config", key))
    settings = {**loss.settings, **{key: float(value) for key, value in (given or {}).items()}}
    low, high = settings.get("clip_low_threshold", 0.0), settings.get("clip_high_threshold", 0.0)
    if low > high:
        raise ConfigError(
            f"clip_low_threshold ({low:g}) lies above clip_high_threshold ({high:g}).",
            path=("loss_fn_config", "clip_low_threshold"),
        )
    return settings


def check(data: Sequence[Datum], loss: Loss | None, *, vocab_size: int, max_positions: int | None = None) -> None:
    """Refuse a batch that the loss cannot use, before anything is computed. `loss` None is a custom loss: any inputs besides
    the targets, of any shape, are its own business.

    Raises DataError that names the datum (counted from 0), the field, and what was expected.
    """
    if not data:
        raise DataError("The batch holds no datum: there is nothing to compute.")
    for index, datum in enumerate(data):
        _check_shapes(index, datum, loss, max_positions)
    _check_range([datum.model_input for datum in data], "model_input", vocab_size)
    _check_range([datum.loss_fn_inputs[TARGETS] for datum in data], TARGETS, vocab_size)
    for name in loss.inputs if loss else ():
        arrays = [np.asarray(datum.loss_fn_inputs[name]) for datum in data]
        if not all(map(np.all, map(np.isfinite, arrays))):
            index = next(i for i, array in enumerate(arrays) if not np.isfinite(array).all())
            raise DataError(f"Datum {index}: {name} holds a value that is not finite (NaN or infinity).", field=name)


def _check_shapes(index: int, datum: Datum, loss: Loss | None, max_positions: int | None) -> None:
    inputs, ids = datum.loss_fn_inputs, datum.model_input
    if ids.ndim != 1 or ids.shape[0] == 0:
        raise DataError(f"Datum {index}: model_input is a row of at least one token id, not {_shape(ids)}.", field="model_input")
    if max_positions is not None and ids.shape[0] > max_positions:
        raise DataError(
            f"Datum {index} has {ids.shape[0]} tokens; the model reads at most {max_positions}. Shorten max_seq_len.",
            field="model_input",
        )
    expected = {TARGETS, *(loss.inputs if loss else ())}
    if missing := sorted(expected - set(inputs)):
        raise DataError(f"Datum {index} lacks {', '.join(missing)}, which {_named(loss)} needs.", field=missing[0])
    if loss and (extra := sorted(set(inputs) - expected)):
        raise DataError(f"Datum {index} has {', '.join(extra)}, which {_named(loss)} does not take.", field=extra[0])
    targets = inputs[TARGETS]
    soft = loss is None or loss.soft_targets
    if targets.ndim not in ((1, 2) if soft else (1,)) or targets.shape[0] != ids.shape[0] or 0 in targets.shape:
        shapes = f"({ids.shape[0]},)" + (f" or ({ids.shape[0]}, K)" if soft else "")
        raise DataError(f"Datum {index}: {TARGETS} has the shape {_shape(targets)}, not {shapes} as its tokens.", field=TARGETS)
    for name in loss.inputs if loss else ():
        if np.shape(inputs[name]) != targets.shape:
            raise DataError(
                f"Datum {index}: {name} has the shape {_shape(inputs[name])}, not {_shape(targets)} as its targets.", field=name
            )


def _check_range(arrays: Sequence[Array], name: str, vocab_size: int) -> None:
    if all(array.dtype.kind in "iu" and array.min() >= 0 and array.max() < vocab_size for array in arrays):
        return
    for index, array in enumerate(arrays):
        if array.dtype.kind not in "iu":
            raise DataError(f"Datum {index}: {name} holds {array.dtype} values, not whole token ids.", field=name)
        outside = array[(array < 0) | (array >= vocab_size)]
        if outside.size:
            raise DataError(
                f"Datum {index}: {name} holds the id {outside.flat[0]}; the model's vocabulary ends at {vocab_size - 1}.",
                field=name,
                found=int(outside.flat[0]),
            )


def _named(loss: Loss | None) -> str:
    return f"the loss {loss.name}" if loss else "a custom loss"


def _shape(array: Any) -> str:
    return str(tuple(np.shape(array)))
