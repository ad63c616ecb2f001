"""Folders that appear whole or not at all, and the full state of a training run in them: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.backends.local.optimizer import Optimizer
from recipes.errors import CheckpointError

TENSORS_FILE = "state.safetensors"
FACTS_FILE = "state.json"
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of `target` when the block ends well, and leaves no trace when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a process that was killed while saving
        shutil.rmtree(leftover, ignore_errors=True)
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"
    partial.mkdir()
    try:
        yield partial
        former = partial.with_suffix(".former")
        if target.exists():
            target.rename(former)
        partial.rename(target)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def checked_name(name: str) -> str:
    """Raises CheckpointError for a name that could leave its folder."""
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{name!r} is no checkpoint name: use letters, digits, dots, dashes and underscores.")
    return name


def save_state(folder: Path, optimizer: Optimizer, facts: Mapping[str, Any]) -> None:
    """What is trained, its moments and the random state. `facts` is what must be the same when it is loaded."""
    tensors: dict[str, Tensor] = {f"weights.{name}": parameter.detach() for name, parameter in optimizer.parameters.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.tensors().items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / TENSORS_FILE)
    text = json.dumps({"format": _FORMAT, **facts, "num_steps": optimizer.num_steps}, indent=1)
    (folder / FACTS_FILE).write_text(text, encoding="utf-8")


def load_state(folder: Path, optimizer: Optimizer, facts: Mapping[str, Any], *, with_moments: bool = True) -> None:
    """Put it all back, bit for bit; or the weights alone, under a fresh optimizer. Raises CheckpointError when it is unreadable
    or of another run; then nothing was changed."""
    tensors, saved = _read(folder)
    for key, value in {"format": _FORMAT, **facts}.items():
        if saved.get(key) != value:
            raise CheckpointError(f"The checkpoint in {str(folder)!r} has {key} {saved.get(key)!r}; this run has {value!r}.")
    weights = {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    own = {name: tuple(parameter.shape) for name, parameter in optimizer.parameters.items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if own != theirs:
        name = next(name for name in [*own, *theirs] if own.get(name) != theirs.get(name))
        raise CheckpointError(
            f"The checkpoint in {str(folder)!r} does not fit: {name} has the shape {theirs.get(name)}, here {own.get(name)}."
        )
    moments = {name.removeprefix("optimizer."): tensor for name, tensor in tensors.items() if name.startswith("optimizer.")}
    optimizer.load_tensors(moments if with_moments else {})
    copy_weights(optimizer.parameters, weights)
    if not with_moments:
        return
    torch.set_rng_state(tensors["rng.cpu"])
    if torch.cuda.is_available() and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])


def copy_weights(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not (folder / FACTS_FILE).is_file():
        raise CheckpointError(f"There is no saved training state in {str(folder)!r}.")
    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        return load_file(folder / TENSORS_FILE), facts
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"The training state in {str(folder)!r} cannot be read: {error}.") from error
