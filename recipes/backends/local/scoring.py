"""Log-probabilities of given tokens: what a model thinks of text that it did not say itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recipes.backends.local.batching import plan
from recipes.backends.local.projection import Projection

_MAX_TOKENS = 1 << 13
_MAX_LOGITS = 1 << 24


class Scores(NamedTuple):
    """Of a prompt of N tokens, N entries each, the first None. topk: [(id, log-probability), …], likeliest first."""

    logprobs: list[float | None]
    topk: list[list[tuple[int, float]] | None]


@torch.inference_mode()
def score(model: Any, projection: Projection | None, prompts: Sequence[Sequence[int]], *, topk: int = 0) -> list[Scores]:
    """Each prompt's tokens given those before them, at temperature 1. Prompts of like length are read together, padded on the
    right; the vocabulary projection is taken in chunks, so that a prompt's logits are never held whole."""
    scores: list[Scores | None] = [None] * len(prompts)
    for indices in plan([len(prompt) for prompt in prompts], _MAX_TOKENS):
        group = [list(prompts[index]) for index in indices]
        for index, prompt, rows in zip(indices, group, _states(model, projection, group), strict=True):
            scores[index] = _score_one(projection, rows, prompt, topk)
    return [found for found in scores if found is not None]


def _states(model: Any, projection: Projection | None, group: list[list[int]]) -> Tensor:
    """(P, L, H) hidden states; or (P, L, V) logits of a model whose projection is not a plain linear map."""
    ids = np.zeros((len(group), max(len(prompt) for prompt in group)), dtype=np.int64)
    for line, prompt in zip(ids, group, strict=True):
        line[: len(prompt)] = prompt
    input_ids = torch.from_numpy(ids).to(model.device)
    if projection is None:
        logits: Tensor = model(input_ids=input_ids, use_cache=False).logits
        return logits
    hidden: Tensor = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    return hidden


def _score_one(projection: Projection | None, states: Tensor, prompt: list[int], topk: int) -> Scores:
    logprobs: list[float | None] = [None]
    likeliest: list[list[tuple[int, float]] | None] = [None]
    targets = torch.tensor(prompt[1:], device=states.device)
    vocab_size = states.shape[-1] if projection is None else projection.weight.shape[0]
    chunk = max(1, _MAX_LOGITS // vocab_size)
    for start in range(0, len(targets), chunk):
        stop = min(start + chunk, len(targets))
        rows = states[start:stop]
        logits = rows.float() if projection is None else projection.logits(rows)
        log_softmax = logits.log_softmax(-1)
        logprobs += log_softmax.gather(1, targets[start:stop, None]).squeeze(1).tolist()
        if topk:
            values, ids = log_softmax.topk(min(topk, vocab_size), dim=-1)
            likeliest += [list(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
    return Scores(logprobs, likeliest)
