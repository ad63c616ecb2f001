"""LoRA (Hu et al. 2021, arXiv:2106.09685) on every linear layer but the vocabulary projection: by PEFT, in PEFT's format."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.backends.local.models import resolve
from recipes.config import ModelConfig
from recipes.errors import BackendError, CheckpointError, ConfigError
from recipes.saved_adapters import CONFIG_FILE, NO_ADAPTER_WITHOUT_RANK, SavedAdapter

_ADAPTER = "default"
_SMALL_LAYER = 1 << 15
WEIGHTS_FILE = "adapter_model.safetensors"


def add_adapters(model: Any, *, rank: int, alpha_ratio: float, seed: int) -> Any:
    """The model with LoRA adapters of that rank, in float32 and as good as absent (B is zero). Raises BackendError."""
    torch.manual_seed(seed)
    alpha: Any = rank * alpha_ratio
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


def shorten_forward(peft_model: Any) -> None:
    """Let small layers compute x·(W + s·BA)ᵀ instead of x·Wᵀ + s·(x·Aᵀ)·Bᵀ: the same value and gradient, by one product rather
    than three thin ones. For large layers the sum of weights would cost more than it saves; they keep PEFT's way."""
    for module in _adapted(peft_model).values():
        base, lora_a, lora_b = module.get_base_layer(), module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
        if isinstance(base, nn.Linear) and base.weight.numel() <= _SMALL_LAYER and base.weight.dtype == lora_a.dtype:
            module.forward = partial(_merged_forward, base, lora_a, lora_b, module.scaling[_ADAPTER])


def _merged_forward(base: nn.Linear, lora_a: Tensor, lora_b: Tensor, scaling: float, x: Tensor) -> Tensor:
    return nn.functional.linear(x, torch.addmm(base.weight, lora_b, lora_a, alpha=scaling), base.bias)


def merged_weights(peft_model: Any) -> dict[str, Tensor]:
    """The weights that the adapters change, as they are with the adapters merged in: new tensors, by their name in the model."""
    merged = {}
    with torch.no_grad():
        for name, module in _adapted(peft_model).items():
            base = module.get_base_layer().weight
            merged[f"{name}.weight"] = (base.float() + module.get_delta_weight(_ADAPTER).float()).to(base.dtype)
    return merged


def _adapted(peft_model: Any) -> dict[str, Any]:
    """The layers that carry an adapter, by their name in the model."""
    return {name: module for name, module in peft_model.get_base_model().named_modules() if isinstance(module, LoraLinear)}


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


class Beginning(NamedTuple):
    """source: what the frozen weights are read from, a model's name or a folder. adapter: one to take over on top of them."""

    source: str
    adapter: Path | None


def beginning_of(model: ModelConfig, lora_rank: int) -> Beginning:
    """Where a run's weights begin. Raises CheckpointError for a checkpoint that is none or fits another model, ConfigError for an
    adapter where all weights are trained."""
    if model.init_from_checkpoint is None:
        return Beginning(model.name, None)
    folder = Path(model.init_from_checkpoint)
    if not (folder / CONFIG_FILE).is_file():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"The checkpoint to begin from, {str(folder)!r}, holds neither an adapter nor a model.")
        return Beginning(str(folder), None)
    if not lora_rank:
        raise ConfigError(NO_ADAPTER_WITHOUT_RANK, path=("algorithm", "params", "lora_rank"))
    refuse_other_base(model.name, folder)
    return Beginning(model.name, folder)


def refuse_other_base(model_name: str, folder: Path) -> None:
    """An adapter that was trained on top of a whole checkpoint names that folder as its base: on any other weights it would talk
    nonsense without an error. Raises CheckpointError."""
    try:
        saved = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The checkpoint's {CONFIG_FILE} cannot be read: {error}.") from None
    base = saved.get("base_model_name_or_path") if isinstance(saved, dict) else None
    if not isinstance(base, str) or base == model_name or not (Path(base) / "config.json").is_file():
        return
    if Path(base).resolve() != Path(str(resolve(model_name))).resolve():
        raise CheckpointError(
            f"This adapter stands on the weights in {base}, not on {model_name!r}. Name that folder as the model."
        )


def load_adapter(peft_model: Any, folder: Path) -> None:
    """Take over the weights of a saved adapter. Raises CheckpointError when it is unreadable or was made for other shapes."""
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
        saved = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"The adapter in {str(folder)!r} cannot be read: {error}.") from error
    config = peft_model.peft_config[_ADAPTER]
    if unlike := SavedAdapter(saved.r, saved.lora_alpha).unlike(rank=config.r, alpha=config.lora_alpha):
        raise CheckpointError(unlike)
    own = {name: tensor.shape for name, tensor in get_peft_model_state_dict(peft_model, save_embedding_layers=False).items()}
    theirs = {name: tensor.shape for name, tensor in tensors.items()}
    if own != theirs:
        name = next(name for name in [*own, *theirs] if own.get(name) != theirs.get(name))
        raise CheckpointError(f"The adapter in {str(folder)!r} was made for another model: {name} differs.")
    set_peft_model_state_dict(peft_model, tensors)
