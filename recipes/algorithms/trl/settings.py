"""The settings that TRL's runs have besides those of sft, dpo and rl. No torch here: forms read this in every process."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from recipes.backends.local.config import Device
from recipes.config import BaseAlgorithmConfig, knob


class MixedPrecision(StrEnum):
    FLOAT32 = "float32"
    BF16 = "bf16"
    FP16 = "fp16"


class TRLSettings(BaseAlgorithmConfig):
    device: Device = knob(Device.AUTO, "Where to compute; auto takes the GPU when there is one.", essential=True)
    precision: MixedPrecision = knob(
        MixedPrecision.FLOAT32,
        "Precision of the computation; bf16 and fp16 need a GPU. What is trained, and the optimizer, stay float32.",
    )
    rows_at_once: int = knob(
        0,
        "Rows that a device computes at once, the batch being gathered from several passes; 0 takes the whole batch in one.",
        unit="rows",
        ge=0,
        le=65536,
    )
    lora_alpha_ratio: float = knob(
        2.0, "LoRA alpha as a multiple of the rank; the adapters' output is scaled by it.", gt=0, le=64
    )
    gradient_checkpointing: bool = knob(
        False, "Recompute activations in the backward pass: less memory, about a third more time."
    )

    num_processes: int = knob(
        1,
        "Processes of this machine that share each step, one per GPU. What else accelerate can do (FSDP, DeepSpeed) is set by"
        " `accelerate config` for the worker's account.",
        unit="processes",
        ge=1,
        le=64,
    )

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.rows_per_step % self.num_processes:
            raise ValueError(f"num_processes must divide the {self.rows_per_step} rows of a step, not be {self.num_processes}")
        if self.rows_at_once and self.rows_per_step % self.rows_at_once:
            raise ValueError(f"rows_at_once must divide the {self.rows_per_step} rows of a step, not be {self.rows_at_once}")
        if self.device is Device.CPU and self.precision is not MixedPrecision.FLOAT32:
            raise ValueError(f"precision {self.precision} needs a GPU: choose float32, or another device than cpu")
        return self

    def switched_off(self) -> dict[str, str]:
        return super().switched_off() | ({} if self.lora_rank else {"lora_alpha_ratio": "with lora_rank 0"})

    @property
    def rows_per_step(self) -> int:
        """What one optimizer step learns from, over all passes."""
        return self.batch_size
