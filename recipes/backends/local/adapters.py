"""LoRA (Hu et al. 2021, arXiv:2106.09685) on every linear layer except the vocabulary projection, by PEFT and in PEFT's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.errors import BackendError, CheckpointError

_ADAPTER = "default"
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


def add_adapters(model: Any, *, rank: int, alpha_ratio: float, seed: int) -> Any:
    """The model with LoRA adapters of that rank, in float32 and as good as absent (B is zero). Raises BackendError."""
    torch.manual_seed(seed)
    alpha = rank * alpha_ratio
    config = LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise BackendError(
            f"LoRA cannot be added to this model ({error}). Train all weights: lora_rank 0.", permanent=True
        ) from error


def merged_weights(peft_model: Any) -> dict[str, Tensor]:
    """The weights that the adapters change, as they are with the adapters merged in: new tensors, by their name in the model."""
    merged = {}
    with torch.no_grad():
        for name, module in peft_model.get_base_model().named_modules():
            if isinstance(module, LoraLayer):
                base = module.get_base_layer().weight  # type: ignore[no-untyped-call]
                merged[f"{name}.weight"] = (base.float() + module.get_delta_weight(_ADAPTER).float()).to(base.dtype)
    return merged


def save_adapter(peft_model: Any, model_name: str, folder: Path) -> None:
    """Write what plain `peft.PeftModel.from_pretrained(base, folder)` reads. The config carries the base model's name."""
    tensors = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
    config = peft_model.peft_config[_ADAPTER]
    given = config.base_model_name_or_path, config.inference_mode
    config.base_model_name_or_path, config.inference_mode = model_name, True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.base_model_name_or_path, config.inference_mode = given


def load_adapter(peft_model: Any, folder: Path) -> None:
    """Take over the weights of a saved adapter. Raises CheckpointError when it is unreadable or was made for other shapes."""
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
        saved = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"The adapter in {str(folder)!r} cannot be read: {error}.") from error
    config = peft_model.peft_config[_ADAPTER]
    if (saved.r, saved.lora_alpha) != (config.r, config.lora_alpha):
        raise CheckpointError(
            f"The adapter to begin from has rank {saved.r} and alpha {saved.lora_alpha:g}; this run asks for rank {config.r} and "
            f"alpha {config.lora_alpha:g}. Set lora_rank to {saved.r} and lora_alpha_ratio to {saved.lora_alpha / saved.r:g}."
        )
    own = {name: tensor.shape for name, tensor in get_peft_model_state_dict(peft_model, save_embedding_layers=False).items()}
    theirs = {name: tensor.shape for name, tensor in tensors.items()}
    if own != theirs:
        name = next(name for name in [*own, *theirs] if own.get(name) != theirs.get(name))
        raise CheckpointError(f"The adapter in {str(folder)!r} was made for another model: {name} differs.")
    set_peft_model_state_dict(peft_model, tensors)
