"""From rollouts to training data: advantages within groups, and datums whose numbers stand where the loss expects them.

With rewards r of one group: advantage = r − mean(r), and / std(r) where that is asked for (population; Shao et al. 2024,
arXiv:2402.03300). A lone attempt has nothing to be compared with: its advantage is its reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recipes.errors import BackendError
from recipes.protocols import Backend
from recipes.types import Array, Datum, ForwardBackwardResult, Metrics, Trajectory, Turn, float_array, int_array

MIN_STD = 1e-6
"""A spread below it is none: rewards that differ by rounding alone would be blown up to ±1."""


def group_advantages(rewards_G: Sequence[float], *, by_std: bool = False) -> Array:
    """(G,) float64 advantages of one group, in its order."""
    rewards = np.asarray(rewards_G, dtype=np.float64)
    if len(rewards) < 2:
        return rewards
    centred: Array = rewards - rewards.mean()
    return centred / max(float(rewards.std()), MIN_STD) if by_std else centred


def is_constant(rewards_G: Sequence[float]) -> bool:
    """Every reward is the same, so that no attempt can be told to be better than another. A lone attempt counts as constant."""
    return not rewards_G or max(rewards_G) - min(rewards_G) < MIN_STD


def datums_of(trajectory: Trajectory) -> list[Datum]:
    """The datums of one trajectory: turns whose prompt begins with everything before it, token by token, share one.

    Of N = the sequence's length − 1 positions, those that predict what was said carry the trajectory's advantage and the
    sampler's log-probability; all others hold 0. Raises BackendError when the sampler gave no log-probabilities.
    """
    return [_datum(sequence, trajectory.advantage) for sequence in _sequences(trajectory)]


class _Sequence(NamedTuple):
    """tokens_T, with the sampler's log-probability of each that was said, and whether it was."""

    tokens_T: list[int]
    logprobs_T: list[float]
    said_T: list[bool]


def _sequences(trajectory: Trajectory) -> Iterator[_Sequence]:
    sequence = _Sequence([], [], [])
    for turn in trajectory.turns:
        check_logprobs(turn, trajectory.task_id)
        seen = len(sequence.tokens_T)
        if turn.prompt_tokens[:seen] != sequence.tokens_T:
            yield from [sequence] if any(sequence.said_T) else []
            sequence, seen = _Sequence([], [], []), 0
        _extend(sequence, turn.prompt_tokens[seen:], None)
        _extend(sequence, turn.completion_tokens, turn.logprobs)
    if any(sequence.said_T):
        yield sequence


def _extend(sequence: _Sequence, tokens: Sequence[int], logprobs: Sequence[float] | None) -> None:
    sequence.tokens_T.extend(tokens)
    sequence.logprobs_T.extend(logprobs if logprobs is not None else [0.0] * len(tokens))
    sequence.said_T.extend([logprobs is not None] * len(tokens))


def _datum(sequence: _Sequence, advantage: float) -> Datum:
    said = np.array(sequence.said_T[1:])
    return Datum(
        int_array(sequence.tokens_T[:-1]),
        {
            "target_tokens": int_array(sequence.tokens_T[1:]),
            "logprobs": float_array(sequence.logprobs_T[1:]),
            "advantages": float_array(np.where(said, advantage, 0.0)),
        },
    )


async def anchored(
    data: Sequence[Datum], backend: Backend, *, loss: str, settings: Mapping[str, float] | None = None
) -> list[Datum]:
    """The same for a loss that draws every position back to q, also one without an advantage: where nothing was said, which is
    where q and advantage are 0, q becomes what the weights in training give, so that prompts are not drawn towards certainty.

    Costs a forward pass. Raises BackendError when the backend gives no log-probabilities.
    """
    outputs = (await backend.forward_async(data, loss_fn=loss, loss_fn_config=settings)).loss_fn_outputs
    if len(outputs) != len(data) or not all("logprobs" in output for output in outputs):
        raise BackendError(
            f"The loss {loss} needs the log-probability of each token, which the backend does not give.", permanent=True
        )
    found = []
    for datum, output in zip(data, outputs, strict=True):
        inputs = datum.loss_fn_inputs
        untold = (inputs["logprobs"] == 0) & (inputs["advantages"] == 0)
        logprobs = np.where(untold, np.asarray(output["logprobs"], np.float64), inputs["logprobs"])
        found.append(Datum(datum.model_input, {**inputs, "logprobs": float_array(logprobs)}))
    return found


def check_logprobs(turn: Turn, task_id: str) -> None:
    """Raises BackendError unless there is one log-probability per token said: a missing one taken for 0 would say that the token
    was certain, and bend the ratio in silence."""
    if len(turn.logprobs) != len(turn.completion_tokens):
        raise BackendError(
            f"The sampler gave {len(turn.logprobs)} log-probabilities for {len(turn.completion_tokens)} tokens of an attempt at"
            f" task {task_id!r}. Policy gradients need one per token: choose a backend that gives them.",
            permanent=True,
        )
    for logprob in turn.logprobs:
        if logprob is None or not math.isfinite(logprob):
            raise BackendError(
                f"The sampler gave the log-probability {logprob} for a token of an attempt at task {task_id!r}, which is no"
                " number to learn from.",
                permanent=True,
            )


def drift(data: Sequence[Datum], result: ForwardBackwardResult, *, low: float, high: float) -> Metrics:
    """How far the weights in training stand from those that sampled, over the tokens that carry an advantage.

    With d = lp − q: ratio = exp(d); KL(sampler ‖ trained) is estimated by the mean of exp(d) − 1 − d, which is never negative
    (Schulman 2020, http://joschu.net/blog/kl-approx.html). clipped: share of tokens with a ratio outside [low, high].
    Empty when the backend gives no log-probabilities.
    """
    outputs = result.loss_fn_outputs
    if len(outputs) != len(data) or not all("logprobs" in output for output in outputs):
        return {}
    taught = [datum.loss_fn_inputs["advantages"] != 0 for datum in data]
    trained = np.concatenate([np.asarray(out["logprobs"], np.float64)[mask] for out, mask in zip(outputs, taught, strict=True)])
    sampled = np.concatenate(
        [np.asarray(datum.loss_fn_inputs["logprobs"], np.float64)[mask] for datum, mask in zip(data, taught, strict=True)]
    )
    if not len(trained):
        return {}
    difference = trained - sampled
    ratio = np.exp(np.minimum(difference, 700.0))
    return {
        "kl/sampler": float((ratio - 1 - difference).mean()),
        "train/ratio_mean": float(ratio.mean()),
        "train/ratio_max": float(ratio.max()),
        "train/ratio_clipped": float(((ratio < low) | (ratio > high)).mean()),
    }
