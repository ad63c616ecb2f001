"""A checkpoint beside its base model, to ask both the same. Where the backend can, both share the frozen weights."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.chat import LocalChat
from recipes.config import BackendChoice, ModelConfig
from recipes.evals.runner import weights_settings
from recipes.registry import backends


@dataclass(frozen=True)
class ChatPair:
    """tuned: the checkpoint; base: the model that it was trained from."""

    tuned: LocalChat
    base: LocalChat


@asynccontextmanager
async def open_pair(model_name: str, checkpoint: str, backend: BackendChoice) -> AsyncIterator[ChatPair]:
    """Both models, closed at the end. Raises ConfigError, CheckpointError, BackendError.

    An adapter leaves the base as it is, and one set of frozen weights serves both. Full weights are a second model: the base is
    opened beside it, which takes its memory once more.
    """
    is_whole = (Path(checkpoint) / "config.json").is_file()
    async with AsyncExitStack() as stack:
        tuned = await stack.enter_async_context(_opened(model_name, checkpoint, backend))
        base = await stack.enter_async_context(_opened(model_name, None, backend)) if is_whole else tuned
        if base is tuned and hasattr(tuned, "beside"):  # a thread of its own, or one would answer after the other
            base = tuned.beside()
            stack.push_async_callback(base.close)
        yield ChatPair(
            LocalChat(await tuned.snapshot_sampling_client(), tuned.get_tokenizer()),
            LocalChat(await base.reference_sampling_client(), base.get_tokenizer()),
        )


@asynccontextmanager
async def _opened(model_name: str, checkpoint: str | None, backend: BackendChoice) -> AsyncIterator[Any]:
    params, algorithm = weights_settings(backend, checkpoint)
    backend_class = backends.get(backend.kind)
    with tempfile.TemporaryDirectory(prefix="chat-") as folder:
        opened = await backend_class.open(
            backend_class.Config.model_validate(params),
            model=ModelConfig(name=model_name, init_from_checkpoint=checkpoint),
            algorithm=algorithm,
            output_dir=Path(folder),
            secrets={},
        )
        try:
            yield opened
        finally:
            await opened.close()
