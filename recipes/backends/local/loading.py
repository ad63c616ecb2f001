"""A model from a folder or the hub, with every way that fails told as a sentence; and copies of it that share its memory."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from recipes.backends.local.config import Device
from recipes.backends.local.models import resolve
from recipes.errors import ConfigError

_TINY_PARAMETERS = 5_000_000
_FIELD = ("model", "name")


def load_model(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The causal model of that name, in eval mode, with dropout off for good: log-probabilities are the same in training.

    Weights are read from safetensors only and no code that comes with a model is run. Raises ConfigError with a sentence.
    """
    source = resolve(name)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)  # nosec B615
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # nosec B615
            source, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(_loading_sentence(name, source, error), path=_FIELD) from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ConfigError(f"The weights of the model {name!r} are incomplete: {shown} missing.", path=_FIELD)
    _turn_off_dropout(model)
    return model.to(device).eval()


def _loading_sentence(name: str, source: Path | str, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if "trust_remote_code" in str(error):
        return f"The model {name!r} brings its own program code, which is never run here. Choose a model that transformers knows."
    if "Unrecognized" in reason or "does not recognize this architecture" in str(error):
        return (
            f"The architecture of the model {name!r} is no causal language model that the installed transformers knows: {reason}"
        )
    if isinstance(source, str) and isinstance(error, OSError):
        return (
            f"The model {name!r} is not in the local cache and could not be fetched from the Hugging Face hub "
            f"(no network, a wrong name, or no safetensors): {reason}"
        )
    return f"The model {name!r} cannot be loaded: {reason}"


def _turn_off_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute in ("attention_dropout", "attn_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)


def choose_device(device: Device) -> torch.device:
    """Raises ConfigError when a GPU is asked for and there is none."""
    if device is Device.CUDA and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device here. Choose auto or cpu.", path=("backend", "params", "device"))
    use_cuda = device is Device.CUDA or (device is Device.AUTO and torch.cuda.is_available())
    return torch.device("cuda" if use_cuda else "cpu")


def choose_num_threads(num_threads: int, num_parameters: int) -> int:
    """As asked; else one for a tiny model, where handing work to a second thread costs more than it brings; else OMP_NUM_THREADS
    where it is set, or every core that this process may use."""
    if num_threads:
        return num_threads
    if num_parameters < _TINY_PARAMETERS:
        return 1
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a type for it; the CPU allocator only a RuntimeError that says so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("can't allocate memory", "not enough memory", "out of memory", "cublas_status_alloc_failed")
    )


def share(model: Any, replaced: Mapping[str, Tensor] | None = None) -> Any:
    """A second model of the same structure on the same tensors; only the weights in `replaced`, by name, are its own."""
    tensors = [*model.parameters(), *model.buffers()]
    replica = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    names_of: dict[int, list[str]] = {}
    for name, parameter in replica.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), []).append(name)
    for name, tensor in (replaced or {}).items():
        parameter = nn.Parameter(tensor, requires_grad=False)
        for tied_name in names_of[id(replica.get_parameter(name))]:
            owner, _, leaf = tied_name.rpartition(".")
            setattr(replica.get_submodule(owner), leaf, parameter)
    return replica
