"""Weights to sample from, a base or a checkpoint of it, for evals and chats: nothing is trained with what is opened here."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from recipes.config import BackendChoice, BaseAlgorithmConfig, ModelConfig
from recipes.protocols import OpensForSampling, SamplingBackend
from recipes.registry import backends
from recipes.saved_adapters import ALPHA_RATIO, saved_adapter


@asynccontextmanager
async def open_weights(
    backend: BackendChoice, model_name: str, checkpoint: str | None, *, secrets: Mapping[str, str]
) -> AsyncIterator[SamplingBackend]:
    """Closed at the end. Where a backend can, nothing that trains is made for it. Raises ConfigError, CheckpointError,
    BackendError."""
    params, algorithm = weights_settings(backend, checkpoint)
    backend_class = backends.get(backend.kind)
    config = backend_class.Config.model_validate(params)
    model = ModelConfig(name=model_name, init_from_checkpoint=checkpoint)
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        opened: SamplingBackend
        if isinstance(backend_class, OpensForSampling):
            opened = await backend_class.open_for_sampling(config, model=model, secrets=secrets)
        else:
            opened = await backend_class.open(config, model=model, algorithm=algorithm, output_dir=Path(folder), secrets=secrets)
        try:
            yield opened
        finally:
            await opened.close()


def weights_settings(backend: BackendChoice, checkpoint: str | None) -> tuple[dict[str, Any], BaseAlgorithmConfig]:
    """The backend's settings and the LoRA rank under which the checkpoint was saved: it says both itself, in PEFT's format.
    Raises CheckpointError."""
    params = dict(backend.params)
    saved = saved_adapter(checkpoint)
    if saved is None:
        return params, BaseAlgorithmConfig(lora_rank=1)  # the least: adapters that change nothing let bfloat16 models stay so
    if ALPHA_RATIO in backends.get(backend.kind).Config.model_fields:
        params[ALPHA_RATIO] = saved.alpha_ratio
    return params, BaseAlgorithmConfig(lora_rank=saved.rank)
