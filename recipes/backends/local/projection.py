"""From hidden states to log-probabilities of targets, and back, without ever holding the logits of a whole micro-batch.

The vocabulary projection is computed in chunks of rows. When the loss of a chunk is known at once, its gradient is taken
while the chunk is still in the cache (d loss / d logits = softmax·Σg − onehot·g, negated), so nothing is computed twice. Only
positions that have a gradient pay for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

GradientOf = Callable[[Tensor, slice], Tensor]
"""(C, K) log-probabilities of the positions in the slice → d loss / d log-probability, (C, K)."""

_CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}
_PROBE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Projection:
    """logits = cap·tanh(scale·(h·Wᵀ + b) / cap), with cap and scale as some architectures have them."""

    weight: Tensor
    bias: Tensor | None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(C, H) → (C, V), at least float32."""
        logits = hidden @ self.weight.to(hidden.dtype).T
        if self.bias is not None:
            logits += self.bias
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.scale != 1.0:
            logits *= self.scale
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(P, H) hidden states and (P, K) targets → (P, K) log-probabilities, without gradient."""
        chunks = [self.logits(hidden[rows]).log_softmax(-1).gather(1, targets[rows]) for rows in self._chunks(hidden)]
        return torch.cat(chunks) if chunks else hidden.new_zeros(targets.shape)

    def logprobs_and_gradient(self, hidden: Tensor, targets: Tensor, gradient_of: GradientOf) -> tuple[Tensor, Tensor]:
        """The same, and d loss / d hidden (P, H). The gradient of the weights, where they are trained, is added to theirs."""
        collected: list[Tensor] = []
        hidden_gradient = torch.empty_like(hidden)
        for rows in self._chunks(hidden):
            logits = self.logits(hidden[rows])
            slopes = None if self.softcap is None else 1 - (logits / self.softcap) ** 2
            log_softmax = logits.log_softmax(-1)
            logprobs = log_softmax.gather(1, targets[rows])
            gradient = gradient_of(logprobs, rows)
            flow = log_softmax.exp_().mul_(-gradient.sum(1, keepdim=True)).scatter_add_(1, targets[rows], gradient)
            if slopes is not None:
                flow *= slopes
            if self.scale != 1.0:
                flow *= self.scale
            flow = flow.to(hidden.dtype)
            torch.matmul(flow, self.weight.to(hidden.dtype), out=hidden_gradient[rows])
            self._add_own_gradient(flow, hidden[rows])
            collected.append(logprobs)
        return torch.cat(collected), hidden_gradient

    def _add_own_gradient(self, flow: Tensor, hidden: Tensor) -> None:
        if self.weight.requires_grad:
            add_gradient(self.weight, flow.T @ hidden)
        if self.bias is not None and self.bias.requires_grad:
            add_gradient(self.bias, flow.sum(0))

    def _chunks(self, hidden: Tensor) -> Iterator[slice]:
        size = max(1, _CHUNK_ELEMENTS.get(hidden.device.type, _CHUNK_ELEMENTS["cpu"]) // self.weight.shape[0])
        for start in range(0, hidden.shape[0], size):
            yield slice(start, min(start + size, hidden.shape[0]))


def add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Add to `.grad`, as a backward pass does."""
    gradient = gradient.to(parameter.dtype)
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def find_projection(model: Any) -> Projection | None:
    """The model's vocabulary projection, if it is a linear map with one of the known twists; None if it is something else.

    Not taken on trust: what it gives for a few tokens is compared with what the model itself says.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return None
    vocab_size = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(_PROBE_TOKENS, device=head.weight.device)[None] * 7 + 1) % vocab_size
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits[0].float()
        states = getattr(model.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
        if states is None or states.shape[-1] != head.weight.shape[1]:
            return None
        hidden = states[0]
        for scale, softcap in _twists(model.config.get_text_config()):
            projection = Projection(head.weight, head.bias, scale, softcap)
            found = projection.logits(hidden.to(head.weight.dtype)).float()
            tolerance = (1e-4 if head.weight.dtype == torch.float32 else 0.05) * float(expected.abs().max().clamp(min=1e-3))
            if found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance:
                return projection
    return None


def _twists(config: Any) -> Iterator[tuple[float, float | None]]:
    """Scale and cap of the logits, as the configs of Gemma, Cohere, Granite, MiniCPM, Falcon-H1 … name them."""
    scales = [1.0]
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling"):
        value = getattr(config, name, None)
        if isinstance(value, int | float) and value:
            scales += [float(value), 1 / float(value)]
    cap = getattr(config, "final_logit_softcapping", None)
    for scale in reversed(scales):
        yield scale, float(cap) if cap else None
