"""The settings of the local backend. No torch here: forms and validation read this in every process."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel

from recipes.config import ModelConfig, Settings, knob


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class LocalConfig(Settings):
    """How training runs on this machine. What is trained, and how fast it learns, is the algorithm's business."""

    device: Device = knob(Device.AUTO, "Where to compute; auto takes the GPU when there is one.", essential=True)
    dtype: Precision = knob(
        Precision.FLOAT32,
        "Precision of the computation; bfloat16 halves the memory. What is trained, and the optimizer, stay float32.",
        essential=True,
    )
    num_threads: int = knob(
        0, "Processor threads; 0 takes one for a tiny model and all of them otherwise.", unit="threads", ge=0, le=1024
    )
    max_tokens_per_micro_batch: int = knob(
        4096,
        "Tokens computed at once, padding included; lower it when memory runs out. The result does not depend on it.",
        unit="tokens",
        ge=1,
        le=10_000_000,
    )
    lora_alpha_ratio: float = knob(
        2.0, "LoRA alpha as a multiple of the rank; the adapters' output is scaled by it.", gt=0, le=64
    )
    gradient_checkpointing: bool = knob(
        False, "Recompute activations in the backward pass: less memory, about a third more time."
    )

    def switched_off(self, algorithm: BaseModel, model: ModelConfig) -> dict[str, str]:
        """Without adapters; see `recipes.effects`."""
        if getattr(algorithm, "lora_rank", None) != 0:
            return {}
        return {"lora_alpha_ratio": "with lora_rank 0", "dtype": "with lora_rank 0: what is trained stays float32"}
