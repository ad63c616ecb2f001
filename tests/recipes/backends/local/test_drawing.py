"""Tokens are drawn as often as the distribution says, cut as transformers cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from recipes.backends.local.drawing import Drawn, Knobs, cut, draw


def draw_many(logits: torch.Tensor, num: int, *, temperature: float = 1.0, top_k: int = -1, top_p: float = 1.0) -> Drawn:
    """`num` evenly spread uniforms, so that frequencies are exact up to 1 / num."""
    knobs = Knobs(
        np.full(num, temperature, dtype=np.float32),
        np.full(num, top_k),
        np.full(num, top_p, dtype=np.float32),
        torch.device("cpu"),
    )
    uniforms = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    return draw(logits.repeat(num, 1), knobs, uniforms)


def shares(drawn: Drawn, size: int) -> torch.Tensor:
    return torch.bincount(drawn.tokens, minlength=size) / len(drawn.tokens)


LOGITS = torch.randn(40, generator=torch.Generator().manual_seed(0)) * 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_tempered_softmax_and_logprobs_its_logarithm(temperature: float) -> None:
    drawn = draw_many(LOGITS, 20_000, temperature=temperature)
    expected = (LOGITS / temperature).softmax(-1)
    assert torch.allclose(shares(drawn, 40), expected, atol=2e-4)
    assert torch.allclose(drawn.logprobs, expected.log()[drawn.tokens], atol=1e-5)


def test_temperature_zero_takes_the_likeliest() -> None:
    drawn = draw_many(LOGITS, 50, temperature=0.0)
    assert set(drawn.tokens.tolist()) == {int(LOGITS.argmax())}


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (-1, 0.7), (8, 0.6), (1, 1.0), (100, 0.999)])
def test_cuts_leave_what_transformers_leaves_and_logprobs_are_those_before_the_cut(top_k: int, top_p: float) -> None:
    warpers: list[Any] = ([TopKLogitsWarper(top_k)] if top_k > 0 else []) + ([TopPLogitsWarper(top_p)] if top_p < 1 else [])
    scores = LOGITS[None]
    for warper in warpers:
        scores = warper(None, scores)
    drawn = draw_many(LOGITS, 20_000, top_k=top_k, top_p=top_p)
    assert torch.allclose(shares(drawn, 40), scores[0].softmax(-1), atol=2e-4)
    assert torch.allclose(drawn.logprobs, LOGITS.log_softmax(-1)[drawn.tokens], atol=1e-5)


def test_a_token_of_weight_zero_is_never_drawn_even_at_the_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf"), 0.0, -float("inf")]]).repeat(3, 1)
    knobs = Knobs(np.ones(3, dtype=np.float32), np.full(3, -1), np.ones(3, dtype=np.float32), torch.device("cpu"))
    drawn = draw(logits, knobs, torch.tensor([0.0, 0.5, 1.0 - 2**-53], dtype=torch.float64))
    assert drawn.tokens.tolist() == [1, 3, 3]


def test_cutting_keeps_the_token_that_crosses_the_share() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.2]])
    kept = cut(weights, torch.tensor([-1]), torch.tensor([0.6]))
    assert kept.tolist() == [pytest.approx([0.5, 0.3, 0.0])]
