"""The model that one of TRL's trainers trains: read, and given adapters, by the rules of the local backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import trl  # noqa: F401 - what is missing is told before a model is read

from recipes.algorithms.trl.processes import num_processes
from recipes.algorithms.trl.settings import MixedPrecision, TRLSettings
from recipes.backends.local import adapters, storage
from recipes.backends.local.loading import choose_device, choose_num_threads, is_out_of_memory, load_model
from recipes.chat_templates import load_tokenizer
from recipes.config import ModelConfig
from recipes.errors import BackendError, ConfigError

_DTYPES = {MixedPrecision.FLOAT32: torch.float32, MixedPrecision.BF16: torch.bfloat16, MixedPrecision.FP16: torch.float16}


@dataclass
class OpenModel:
    """Stands where a backend stands, as far as preparing a run asks for one. `model` is PEFT's where adapters are trained.

    source: what the frozen weights were read from. resume_from: TRL's checkpoint to go on from.
    """

    name: ClassVar[str] = "TRL"
    ignored_fields: ClassVar[frozenset[str]] = frozenset()

    model: Any
    tokenizer: Any
    model_name: str
    source: str
    device: torch.device
    has_adapters: bool
    resume_from: Path | None = field(default=None)

    @property
    def max_positions(self) -> int | None:
        """How many tokens the model reads at once; None when it does not say."""
        value = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return value if isinstance(value, int) and value > 0 else None

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    async def load_full_state(self, uri: str) -> None:
        """TRL reads its checkpoint itself, when it begins to train."""
        self.resume_from = Path(uri)

    def untrained(self) -> Any:
        """The model as the run began, read again: the reference where all weights are trained."""
        return load_model(self.source, _place_to_load(self.device), torch.float32)

    def save_for_sampler(self, folder: Path) -> None:
        """What chats, evals and further runs begin from: the adapter in PEFT's format, or the whole model with its tokenizer."""
        with storage.new_folder(folder) as partial:
            if self.has_adapters:
                adapters.save_adapter(self.model, self.source, partial)
            else:
                self.model.save_pretrained(str(partial))
                self.tokenizer.save_pretrained(str(partial))

    async def close(self) -> None:
        """Free the model."""
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def open_model(chosen: ModelConfig, settings: TRLSettings) -> OpenModel:
    """Raises ConfigError for a model or a setting that cannot be used here, CheckpointError, BackendError for lack of memory."""
    device = _device(settings)
    source, adapter = adapters.beginning_of(chosen, settings.lora_rank)
    dtype = _DTYPES[settings.precision] if settings.lora_rank else torch.float32
    tokenizer = load_tokenizer(chosen.name, renderer_name=settings.renderer_name)
    try:
        model = load_model(source, _place_to_load(device), dtype)
        torch.set_num_threads(choose_num_threads(0, sum(parameter.numel() for parameter in model.parameters())))
        if settings.lora_rank:
            model = adapters.add_adapters(
                model, rank=settings.lora_rank, alpha_ratio=settings.lora_alpha_ratio, seed=settings.seed
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise BackendError(
            f"The model {chosen.name!r} does not fit into this machine's memory. Choose bf16 with LoRA, or a smaller model.",
            permanent=True,
        ) from error
    if adapter is not None:
        adapters.load_adapter(model, adapter)
    return OpenModel(model, tokenizer, chosen.name, source, device, has_adapters=bool(settings.lora_rank))


def _place_to_load(device: torch.device) -> torch.device:
    """Where several processes share the work, accelerate places each one's part."""
    return device if num_processes() == 1 else torch.device("cpu")


def _device(settings: TRLSettings) -> torch.device:
    try:
        device = choose_device(settings.device)
    except ConfigError as error:
        raise ConfigError(str(error), path=("algorithm", "params", "device")) from None
    if device.type == "cpu" and settings.precision is not MixedPrecision.FLOAT32:
        raise ConfigError(
            f"There is no GPU here, and {settings.precision} needs one. Choose float32.",
            path=("algorithm", "params", "precision"),
        )
    return device
