"""What a recipe's `build_batch` needs, under the path it has in EvSys."""

from __future__ import annotations

from recipes.loop import TrainingLoop
from recipes.types import AdamParams, Datum, LossCallable, ModelOutput, TrainingBatch

__all__ = ["AdamParams", "Datum", "LossCallable", "ModelOutput", "TrainingBatch", "TrainingLoop"]
