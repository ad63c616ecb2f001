"""One token for every row at once: temperature, top-k, top-p, and the log-probability of what was drawn.

A row is drawn by inverting its cumulative distribution at one uniform number that the caller brings. The number belongs to the
row, so what a row says does not depend on which others are computed beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recipes.types import Array


class Drawn(NamedTuple):
    """tokens (R,) int64; logprobs (R,) float32, under the tempered distribution before any cut (a greedy row: temperature 1)."""

    tokens: Tensor
    logprobs: Tensor


class Knobs:
    """How each of R rows is drawn: temperature 0 is greedy; top_k below 1 and top_p 1 are off."""

    def __init__(self, temperature: Array, top_k: Array, top_p: Array, device: torch.device) -> None:
        cut_rows = np.flatnonzero(((top_k > 0) | (top_p < 1)) & (temperature > 0))
        self.is_plain = bool((temperature == 1).all())
        self.is_greedy = torch.from_numpy(temperature == 0).to(device)
        self.divisor = torch.from_numpy(np.where(temperature == 0, 1.0, temperature)).to(device, torch.float32)[:, None]
        self.cut_rows = torch.from_numpy(cut_rows).to(device)
        self.top_k = torch.from_numpy(top_k[cut_rows]).to(device)
        self.top_p = torch.from_numpy(top_p[cut_rows]).to(device)


def draw(logits: Tensor, knobs: Knobs, uniforms: Tensor) -> Drawn:
    """(R, V) float32 logits and (R,) uniforms in [0, 1) → a token each. `logits` is overwritten."""
    if not knobs.is_plain:
        logits /= knobs.divisor
    highest, likeliest = logits.max(-1)
    weights = logits.sub_(highest[:, None]).exp_()
    kept = weights
    if len(knobs.cut_rows):
        kept = weights.clone()
        kept[knobs.cut_rows] = cut(weights[knobs.cut_rows], knobs.top_k, knobs.top_p)
    tokens = _invert(kept, uniforms)
    if not knobs.is_plain:
        tokens = torch.where(knobs.is_greedy, likeliest, tokens)
    logprobs = (weights.gather(1, tokens[:, None]).squeeze(1) / weights.sum(-1)).log()
    return Drawn(tokens, logprobs)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first token whose cumulative weight exceeds uniform × total; it has a weight above 0."""
    cumulative = weights.cumsum(-1)
    totals = cumulative[:, -1]
    below_total = torch.nextafter(totals, torch.zeros_like(totals))
    levels = torch.minimum(uniforms.to(totals.dtype) * totals, below_total)
    tokens = torch.searchsorted(cumulative, levels[:, None], right=True).squeeze(1)
    return tokens.clamp_(max=weights.shape[1] - 1)


def cut(weights: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """(R, V) weights with 0 outside each row's k likeliest and outside the smallest set of them that holds the share top_p."""
    ordered, indices = weights.sort(-1, descending=True)
    ranks = torch.arange(weights.shape[1], device=weights.device)
    ordered[(top_k > 0)[:, None] & (ranks[None] >= top_k[:, None])] = 0.0
    before = ordered.cumsum(-1) - ordered
    ordered[before >= (top_p * ordered.sum(-1))[:, None]] = 0.0
    return torch.zeros_like(weights).scatter_(1, indices, ordered)
