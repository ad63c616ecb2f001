"""How far TRL's trainer stands from its sampler. TRL tells it where vLLM samples; here transformers does, and tells nothing.

What the sampler thought of each token is seen at the model that `generate` calls, and travels with the batch under the name
that TRL has for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

SAMPLED = "sampling_per_token_logps"
KL, RATIO_MEAN, RATIO_MAX = "sampling/kl", "sampling/importance_sampling_ratio/mean", "sampling/importance_sampling_ratio/max"
"""As TRL calls the ratios; the first has no name there."""


class Recorder:
    """`with Recorder(model, temperature) as seen:` keeps the log-probability of each token that `generate` draws within.

    The last logits of a pass are those of the token that the pass after it reads last. A batch of logits is held, never more.
    """

    def __init__(self, model: torch.nn.Module, temperature: float) -> None:
        self._model, self._temperature = model, temperature
        self._logits: Tensor | None = None
        self._drawn: list[Tensor] = []

    def __enter__(self) -> Self:
        self._hook = self._model.register_forward_hook(self._see, with_kwargs=True)
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hook.remove()

    def logprobs(self, completion_ids: Sequence[Sequence[int]]) -> list[list[float]] | None:
        """Of each token of what was drawn. None where the passes were not those of a plain decoding, token by token."""
        if self._logits is None or len(self._logits) != len(completion_ids):
            return None
        longest = max(map(len, completion_ids))
        if longest > len(self._drawn) + 1:
            return None
        drawn = self._drawn[:longest]  # behind them are idle passes, where processes wait for each other's replies
        if len(drawn) < longest:
            ends = [ids[-1] if len(ids) == longest else 0 for ids in completion_ids]
            drawn = [*drawn, self._of(torch.tensor(ends, device=self._logits.device))]
        drawn_BT = torch.stack(drawn, dim=1)
        return [row[: len(ids)].tolist() for row, ids in zip(drawn_BT.cpu(), completion_ids, strict=True)]

    def _see(self, module: Any, arguments: Any, named: dict[str, Any], output: Any) -> None:
        if self._logits is not None:
            self._drawn.append(self._of(named["input_ids"][:, -1]))
        self._logits = output.logits[:, -1].detach()

    def _of(self, tokens_B: Tensor) -> Tensor:
        assert self._logits is not None
        logits = self._logits.float() / self._temperature
        return logits.gather(1, tokens_B[:, None])[:, 0] - logits.logsumexp(dim=1)


def drift_sums(trained_BT: Tensor, sampled_BT: Tensor, taught_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Over the tokens that carry an advantage, as `trajectories.drift` over datums: (3,) sums of the divergence and of the ratio
    and the number of tokens; and the largest ratio, 0 where there is no token."""
    difference = (trained_BT - sampled_BT)[taught_BT].double()
    ratio = difference.clamp(max=700.0).exp()
    count = torch.full((), len(ratio), dtype=ratio.dtype, device=ratio.device)
    sums = torch.stack([(torch.expm1(difference.clamp(max=700.0)) - difference).sum(), ratio.sum(), count])
    return sums, ratio.max() if len(ratio) else torch.zeros_like(count)
