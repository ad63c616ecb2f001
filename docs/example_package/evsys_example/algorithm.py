"""Focal supervised fine-tuning: tokens that the model knows already count less, by (1 - p)^gamma.

Lin et al., Focal Loss for Dense Object Detection (2017), equation 4, over the tokens of replies.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from recipes.algorithms.sft import SFT, SFTConfig
from recipes.config import knob
from recipes.types import ModelOutput, TrainingBatch


class FocalSFTConfig(SFTConfig):
    gamma: float = knob(2.0, "How fast known tokens lose their weight; 0 is plain sft.", ge=0, le=10, essential=True)


class FocalSFT(SFT):
    """Everything is sft's but the loss; so are its rows, metrics, checkpoints and resume."""

    name = "focal"
    summary = "Learns from chats, and more from what the model does not say by itself yet."
    Config = FocalSFTConfig

    async def build_batch(self, step_index: int) -> TrainingBatch:
        batch = await super().build_batch(step_index)
        return dataclasses.replace(batch, loss_fn=self._focal)

    def _focal(self, model_output: ModelOutput, meta: Any) -> Any:
        """One datum's loss, a scalar with gradient. logprobs, weights (N,): of the target tokens; 0 where nothing is trained."""
        logprobs = model_output.logprobs
        weights = logprobs.new_tensor(meta["weights"])
        return -(weights * (1 - logprobs.exp()) ** self.cfg.gamma * logprobs).sum()
