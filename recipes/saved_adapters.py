"""What a saved LoRA adapter says of itself in PEFT's format, read without PEFT: its rank and its alpha."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from recipes.errors import CheckpointError

CONFIG_FILE = "adapter_config.json"
ALPHA_RATIO = "lora_alpha_ratio"
"""What settings call it, on backends and algorithms that write this format."""
NO_ADAPTER_WITHOUT_RANK = "The checkpoint to begin from is an adapter: lora_rank 0 cannot take it over."


class SavedAdapter(NamedTuple):
    rank: int
    alpha: float

    @property
    def alpha_ratio(self) -> float:
        return self.alpha / self.rank

    def unlike(self, *, rank: int, alpha: float) -> str:
        """What keeps a run with these from going on with it, as a sentence; empty when nothing does."""
        if self.rank == rank and math.isclose(self.alpha, alpha, rel_tol=1e-5):  # a ratio of few digits will do
            return ""
        return (
            f"The adapter to begin from has rank {self.rank} and alpha {self.alpha:g}; this run asks for rank {rank} and alpha"
            f" {alpha:g}. Set lora_rank to {self.rank} and lora_alpha_ratio to {self.alpha_ratio:g}."
        )


def saved_adapter(checkpoint: str | None) -> SavedAdapter | None:
    """None where no adapter lies on this machine under that name. Raises CheckpointError for one that cannot be read."""
    if not checkpoint:
        return None
    path = Path(checkpoint) / CONFIG_FILE
    try:
        if not path.is_file():
            return None
        saved = json.loads(path.read_text(encoding="utf-8"))
        found = SavedAdapter(int(saved["r"]), float(saved["lora_alpha"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"The checkpoint's {CONFIG_FILE} cannot be read: {type(error).__name__}: {error}.") from None
    if found.rank < 1:
        raise CheckpointError(f"The checkpoint's {CONFIG_FILE} names the rank {found.rank}.")
    return found
