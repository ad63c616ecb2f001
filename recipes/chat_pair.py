"""A checkpoint beside its base model, to ask both the same. Where the backend can, both share the frozen weights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from recipes.chat import LocalChat
from recipes.config import BackendChoice
from recipes.weights import open_weights


@dataclass(frozen=True)
class ChatPair:
    """tuned: the checkpoint; base: the model that it was trained from."""

    tuned: LocalChat
    base: LocalChat


@asynccontextmanager
async def open_pair(
    model_name: str, checkpoint: str, backend: BackendChoice, *, secrets: Mapping[str, str] | None = None
) -> AsyncIterator[ChatPair]:
    """Both models, closed at the end. secrets: handed to the backend. Raises ConfigError, CheckpointError, BackendError.

    An adapter leaves the base as it is, and one set of frozen weights serves both. Full weights are a second model: the base is
    opened beside it, which takes its memory once more.
    """
    is_whole = (Path(checkpoint) / "config.json").is_file()
    async with AsyncExitStack() as stack:
        tuned = await stack.enter_async_context(open_weights(backend, model_name, checkpoint, secrets=secrets or {}))
        base = tuned
        if is_whole:
            base = await stack.enter_async_context(open_weights(backend, model_name, None, secrets=secrets or {}))
        if base is tuned and hasattr(tuned, "beside"):  # a thread of its own, or one would answer after the other
            base = tuned.beside()
            stack.push_async_callback(base.close)
        yield ChatPair(
            LocalChat(await tuned.snapshot_sampling_client(), tuned.get_tokenizer()),
            LocalChat(await base.reference_sampling_client(), base.get_tokenizer()),
        )
