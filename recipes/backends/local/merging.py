"""An adapter merged into its base: a whole model that needs no PEFT, as plain transformers and every serving engine read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig

from recipes.backends.local.adapters import merged_weights, refuse_other_base
from recipes.backends.local.loading import is_out_of_memory, load_model
from recipes.backends.local.models import resolve
from recipes.backends.local.storage import new_folder
from recipes.chat_templates import load_tokenizer
from recipes.errors import BackendError, CheckpointError, RecipeError

SHARD_SIZE = "2GB"


def merge_adapter(model_name: str, adapter: Path, target: Path, *, on_phase: Callable[[str], None]) -> None:
    """Write base plus adapter to `target`: safetensors in shards, config, tokenizer with its chat template. The folder appears
    whole or not at all. The precision is the base model's own; sums are taken in float32 and rounded once.

    on_phase hears "reading", "merging", "writing"; what it raises ends the work. Takes the model's memory once, on the processor.
    Raises ConfigError, CheckpointError, BackendError."""
    refuse_other_base(model_name, adapter)
    try:
        on_phase("reading")
        model = load_model(model_name, torch.device("cpu"), _own_precision(model_name))
        peft_model = PeftModel.from_pretrained(model, str(adapter))
        on_phase("merging")
        weights = merged_weights(peft_model)
        plain = peft_model.unload()
        with torch.no_grad():
            for name, tensor in weights.items():
                plain.get_parameter(name).copy_(tensor)
        on_phase("writing")
        with new_folder(target) as folder:
            plain.save_pretrained(str(folder), max_shard_size=SHARD_SIZE)
            _save_tokenizer(model_name, folder)
    except RecipeError:
        raise
    except (OSError, ValueError, TypeError, KeyError, SafetensorError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise BackendError("The model does not fit into this machine's memory.", permanent=True) from error
        raise CheckpointError(f"The adapter cannot be merged into {model_name!r}: {error}.") from error


def _own_precision(model_name: str) -> torch.dtype:
    try:
        found = AutoConfig.from_pretrained(resolve(model_name), trust_remote_code=False).dtype  # nosec B615
    except (OSError, ValueError):
        return torch.float32  # loading says what is wrong
    return found if isinstance(found, torch.dtype) else torch.float32


def _save_tokenizer(model_name: str, folder: Path) -> None:
    try:
        load_tokenizer(model_name).save_pretrained(str(folder))
    except RecipeError:  # a model without a tokenizer is trained on token ids, and is whole without one
        return
