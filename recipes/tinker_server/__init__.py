"""A Tinker-compatible server over the local engine: the official SDK, and what is written for it, on one's own machine.

Speaks what `tinker` 0.38 speaks. Several LoRA adapters train at once on one base; a sampler is a snapshot that later steps do not
touch; losses and gradients are sums; negative weights are weights like any other; prompts are scored in full. What it does
not have it refuses in a sentence: images, other optimizers than AdamW, inflight weights, server-side custom losses.

It departs from the hosted service in three ways: adapters lie on every linear layer but the vocabulary projection, whatever
`train_unembed` says; a sample always ends at the model's end of turn; a step without a gradient moves nothing.

Reading order: codec → promises → checkpoints → models → sessions → operations → app.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recipes.backends.local.config import LocalConfig
from recipes.errors import ConfigError

if TYPE_CHECKING:
    from starlette.applications import Starlette


def make_server(served: list[str], *, root: Path, key: str, config: LocalConfig | None = None) -> Starlette:
    """The application. served: models as NAME or NAME=SOURCE, where SOURCE is starter, a folder or a hub id. root: where
    checkpoints are kept. key: what clients send; the SDK wants it to begin with tml-. Raises ConfigError."""
    from recipes.backends.local.models import resolve
    from recipes.tinker_server.app import make_app
    from recipes.tinker_server.checkpoints import CheckpointStore
    from recipes.tinker_server.models import Models, Served
    from recipes.tinker_server.operations import Operations

    if not key.startswith("tml-"):
        raise ConfigError("The key must begin with tml-, or the SDK refuses to send it.")
    models = []
    for each in served:
        name, _, source = each.partition("=")
        resolve(source or name)
        models.append(Served(name, source or name))
    if not models:
        raise ConfigError("Name at least one model to serve.")
    return make_app(Operations(Models(models, config or LocalConfig()), CheckpointStore(root)), key=key)
