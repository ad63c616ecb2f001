"""Which model a name means: the bundled starter, a folder, or a hub id. Looks at files only, so that the web may ask too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE

from recipes.errors import ConfigError

STARTER_NAME = "starter"
STARTER_FOLDER = Path(__file__).resolve().parents[2] / "starter" / "model"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_FIELD = ("model", "name")


def resolve(name: str) -> Path | str:
    """The folder that holds the model, or the hub id to load it by.

    Raises ConfigError with a sentence when the name is a folder without a usable model, a path that does not exist, or
    neither a path nor a hub id.
    """
    if name == STARTER_NAME:
        return check_folder(STARTER_FOLDER, name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return check_folder(folder, name)
    if folder.exists():
        raise ConfigError(f"The model {name!r} is a file. Give the folder that holds config.json and the weights.", path=_FIELD)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"There is no folder {name!r}. Give {STARTER_NAME!r}, an existing folder, or a hub id such as Qwen/Qwen3-0.6B.",
            path=_FIELD,
        )
    return name


def weights_bytes(name: str) -> int | None:
    """What the model's own weights weigh on disk; None while a model of the hub is not in the cache. Raises ConfigError."""
    source = resolve(name)
    if isinstance(source, Path):
        folders = [source]
    else:
        folders = sorted(Path(HF_HUB_CACHE).glob(f"models--{source.replace('/', '--')}/snapshots/*"))
    sizes = [sum(path.stat().st_size for path in folder.glob("*.safetensors")) for folder in folders]
    return max(sizes, default=0) or None


def check_folder(folder: Path, name: str) -> Path:
    """The folder, if it holds a config and weights as safetensors. Raises ConfigError that says what is missing."""
    read_config(folder, name)
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf") for path in folder.glob(pattern))
        found = f"It holds {others[0]}, a format that is not read here" if others else "It holds no weights"
        raise ConfigError(
            f"The folder of the model {name!r} has no *.safetensors file. {found}: save the model as safetensors first.",
            path=_FIELD,
        )
    return folder


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The model's config.json. Raises ConfigError when it is missing, unreadable, or an adapter lies there instead of a model."""
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise ConfigError(
                f"The folder of the model {name!r} holds an adapter, not a model. "
                "Name its base model here and give the adapter as the checkpoint to begin from.",
                path=_FIELD,
            )
        raise ConfigError(f"The folder {name!r} is no model: it has no config.json.", path=_FIELD)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The config.json of the model {name!r} cannot be read: {error}.", path=_FIELD) from None
    if not isinstance(config, dict) or not config.get("model_type"):
        raise ConfigError(f"The config.json of the model {name!r} does not say its model_type.", path=_FIELD)
    return config
