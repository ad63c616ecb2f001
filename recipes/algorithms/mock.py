"""Training that only pretends: a deterministic curve in the real loop, for tours and tests of everything around it.

Checkpoints, stops, resumes and events are the loop's own; the weights it saves belong to the mock backend, whatever backend
the config names. Nothing is downloaded and nothing is computed.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from recipes.algorithms.base import BaseAlgorithm
from recipes.config import BaseAlgorithmConfig, knob
from recipes.protocols import Backend
from recipes.registry import backends, register_algorithm
from recipes.types import Datum, ForwardBackwardResult, Headline, Metrics, RunContext, TrainingBatch, float_array

TOKENS_PER_ROW = 16


class MockSFTConfig(BaseAlgorithmConfig):
    step_seconds: float = knob(0.0, "How long each step pretends to take.", unit="seconds", ge=0, le=60, essential=True)


@register_algorithm("mock_sft")
class MockSFT(BaseAlgorithm):
    """mean_nll(s) = 2·exp(−3s/T) + 0.05·sin(0.3s) at step s of T. Rows are counted, never read; none are needed."""

    name: ClassVar[str] = "mock_sft"
    summary: ClassVar[str] = "A made-up curve in the real loop, for tours and tests; nothing is trained."
    Config: ClassVar[type[BaseModel]] = MockSFTConfig
    headline: ClassVar[Headline] = Headline("train/mean_nll", "Loss")
    own_backend: ClassVar[str | None] = "mock"
    ignored_fields: ClassVar[frozenset[str]] = frozenset({"lora_rank", "renderer_name", "enable_thinking"})

    async def open_backend(self, ctx: RunContext) -> Backend:
        backend_class: Any = backends.get(self.own_backend or "")
        opened: Backend = await backend_class.open(
            backend_class.Config(), model=ctx.config.model, algorithm=self.cfg, output_dir=ctx.output_dir
        )
        return opened

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        self._steps_per_epoch = max(1, -(-len(self.train_rows(ctx)) // self.cfg.batch_size))

    async def build_batch(self, step_index: int) -> TrainingBatch:
        await asyncio.sleep(self.cfg.step_seconds)
        ids = np.zeros(TOKENS_PER_ROW, dtype=np.int64)
        inputs = {"target_tokens": ids, "weights": float_array(np.full(TOKENS_PER_ROW, 1.0 / TOKENS_PER_ROW))}
        return TrainingBatch(data=[Datum(ids, inputs)] * self.cfg.batch_size)

    def step_metrics(self, step_index: int, batch: TrainingBatch, fb_result: ForwardBackwardResult) -> Metrics:
        step, num_steps = step_index + 1, self.cfg.total_steps(self._steps_per_epoch)
        mean = 2 * math.exp(-3 * step / num_steps) + 0.05 * math.sin(0.3 * step)
        return {"train/loss": mean, "train/mean_nll": mean, "train/loss_sum": mean * TOKENS_PER_ROW * len(batch.data)}
