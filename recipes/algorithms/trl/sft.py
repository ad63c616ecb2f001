"""Supervised fine-tuning by TRL's SFTTrainer.

1. Rows are rendered, masked, cut and held out by `sft`, and handed over as token ids and labels: what is trained is what the mask
   preview shows. TRL's own templates and its assistant_only_loss are not used: its masks need marks in the chat template.
2. The loss of a step is, as in `sft`, the mean over its trained tokens; the order of rows is TRL's.
3. TRL averages the loss of held-out rows over batches, weighing each by its rows; `sft` weighs by tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from recipes.algorithms.sft import SFT, SFTConfig
from recipes.algorithms.trl.base import TRLRun
from recipes.algorithms.trl.metric_names import SFT_NAMES, MetricNames
from recipes.algorithms.trl.settings import TRLSettings
from recipes.loop import Plan
from recipes.protocols import Backend
from recipes.registry import register_algorithm
from recipes.row_order import num_batches
from recipes.types import RunContext

if TYPE_CHECKING:
    from recipes.algorithms.trl.model import OpenModel


class LocalSFTConfig(TRLSettings, SFTConfig):
    """Those of sft, and TRL's."""


@register_algorithm("local_sft")
class LocalSFT(TRLRun, SFT):
    """Rows are `{"messages": […], "tools"?}`."""

    name: ClassVar[str] = "local_sft"
    summary: ClassVar[str] = "Supervised fine-tuning by TRL's SFTTrainer, on this machine: the same rows and masks as sft."
    Config: ClassVar[type[BaseModel]] = LocalSFTConfig
    metric_names: ClassVar[MetricNames] = SFT_NAMES

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        """As sft; but a row that is split over several sequences counts as several, since TRL knows sequences only."""
        await super().setup(ctx, backend)
        self._sequences_trained = [datum for datums in self._datums for datum in datums]
        self._steps_per_epoch = num_batches(len(self._sequences_trained), self.cfg.batch_size)

    def trainer(self, opened: OpenModel, plan: Plan, arguments: dict[str, Any]) -> Any:
        from recipes.algorithms.trl.sft_trainer import sft_trainer

        return sft_trainer(opened, arguments, self._sequences_trained, self._validation)

    @property
    def measure_every(self) -> int:
        return (self.cfg.validation_every or self._steps_per_epoch) if self._validation else 0
