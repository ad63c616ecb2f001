"""Direct preference optimisation by TRL's DPOTrainer.

1. Pairs are rendered, left out and held out by `dpo`, and handed over as token ids with a mask of what was replied.
2. The reference is where the run begins, adapter included: TRL keeps a frozen copy of the adapter (of the model, if all
   weights are trained) and reads every pair under it in every step. `dpo` reads them once, before the first.
3. ipo divides by the length of a reply here, as TRL does; `dpo` sums, as the paper does.
4. A pair of which one side is split over several sequences (see `recipes.rendering`) is left out: TRL knows one sequence a side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel

from recipes.algorithms.dpo import DPO, DPOConfig, Pair
from recipes.algorithms.trl.base import TRLRun
from recipes.algorithms.trl.metric_names import DPO_NAMES, MetricNames
from recipes.algorithms.trl.settings import TRLSettings
from recipes.errors import DataError
from recipes.loop import Plan
from recipes.protocols import Backend
from recipes.registry import register_algorithm
from recipes.row_order import num_batches
from recipes.types import Array, RunContext

if TYPE_CHECKING:
    from recipes.algorithms.trl.model import OpenModel


class LocalDPOConfig(TRLSettings, DPOConfig):
    """Those of dpo, and TRL's."""


@register_algorithm("local_dpo")
class LocalDPO(TRLRun, DPO):
    """Rows are `{"prompt": […], "chosen": […], "rejected": […], "tools"?}`."""

    name: ClassVar[str] = "local_dpo"
    summary: ClassVar[str] = "Preference optimisation by TRL's DPOTrainer, on this machine: the same pairs as dpo."
    Config: ClassVar[type[BaseModel]] = LocalDPOConfig
    metric_names: ClassVar[MetricNames] = DPO_NAMES

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        """As dpo, but for pairs of several sequences a side. Raises DataError when no pair is left."""
        await super().setup(ctx, backend)
        self._pairs = self._of_one_sequence(self._pairs, "training")
        self._held_out = self._of_one_sequence(self._held_out, "validation")
        if not self._pairs:
            raise DataError("No pair is left to train on: the chat template splits every reply over several sequences.")
        self._steps_per_epoch = num_batches(len(self._pairs), self.cfg.batch_size)

    async def _reference(self, ctx: RunContext) -> Array:
        """TRL takes its own, step by step."""
        return np.zeros((len(self._pairs) + len(self._held_out), 2))

    def _of_one_sequence(self, pairs: list[Pair], purpose: str) -> list[Pair]:
        kept = [pair for pair in pairs if len(pair.chosen) == len(pair.rejected) == 1]
        if len(kept) < len(pairs):
            self.report(
                "warning",
                f"{len(pairs) - len(kept):,} of {len(pairs):,} {purpose} pairs are left out: the chat template splits a side over"
                " several sequences, and TRL knows one.",
            )
        return kept

    def trainer(self, opened: OpenModel, plan: Plan, arguments: dict[str, Any]) -> Any:
        from recipes.algorithms.trl.dpo_trainer import dpo_trainer

        losses = {"beta": self.cfg.beta, "loss_type": [str(self.cfg.loss)], "label_smoothing": self.cfg.label_smoothing}
        return dpo_trainer(opened, arguments | losses, self._pairs, self._held_out)

    @property
    def measure_every(self) -> int:
        return (self.cfg.validation_every or self._steps_per_epoch) if self._held_out else 0
