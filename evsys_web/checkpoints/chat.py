"""A chat with a checkpoint beside its base: what a person asks, checked, and the answers as server-sent events.

Nothing of a chat is stored. Each side keeps its own conversation: the person's words are shared, the replies are not.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

from django.http import StreamingHttpResponse
from pydantic import Field

from evsys_web import sse
from evsys_web.checkpoints.sampling import ask
from evsys_web.runs.backends import backend_secrets
from evsys_web.runs.models import Checkpoint
from recipes.backends.local.models import resolve
from recipes.chat_server import SIDES
from recipes.config import Settings, knob, validated
from recipes.errors import CheckpointError, RecipeError
from recipes.registry import check_samples

MOST_TURNS = 100
LONGEST_TEXT = 100_000


class ChatTurn(Settings):
    """What was said before: the person's words, and what each side replied."""

    user: str = Field(max_length=LONGEST_TEXT)
    tuned: str = Field("", max_length=LONGEST_TEXT)
    base: str = Field("", max_length=LONGEST_TEXT)


class ChatSettings(Settings):
    """How both sides are sampled."""

    temperature: float = knob(0.7, "How freely words are drawn; 0 always takes the likeliest.", ge=0, le=10)
    max_tokens: int = knob(256, "Longest reply.", unit="tokens", ge=1, le=8192)
    seed: int | None = knob(None, "The same seed gives the same replies; empty draws anew.", ge=0, le=2**31 - 1)
    same_seed: bool = knob(True, "Both draw with the same random numbers, so that what differs is the weights.")
    system_prompt: str = knob("", "Put before the conversation; empty is none.", max_length=LONGEST_TEXT)


class ChatRequest(ChatSettings):
    """One question to a checkpoint and to its base."""

    prompt: str = Field(min_length=1, max_length=LONGEST_TEXT, description="What to ask.")
    turns: list[ChatTurn] = Field(default_factory=list, max_length=MOST_TURNS, description="The conversation so far.")

    def messages(self, side: str) -> list[dict[str, str]]:
        found = [{"role": "system", "content": self.system_prompt}] if self.system_prompt.strip() else []
        for turn in self.turns:
            found += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": getattr(turn, side)}]
        return [*found, {"role": "user", "content": self.prompt}]

    def seeds(self) -> dict[str, int]:
        """The seed of each side."""
        first = secrets.randbelow(2**31) if self.seed is None else self.seed
        return {"tuned": first, "base": first if self.same_seed else (first + 1) % 2**31}


def stream_replies(checkpoint: Checkpoint, asked: ChatRequest) -> StreamingHttpResponse:
    """Events: `begin` {seeds}, `loading` while models are read, `text` {side, text}, `end` {side, content, …}, `error` {side or
    null, message}, and `done` last. Raises CheckpointError, ConfigError for a checkpoint that cannot be asked at all."""
    request, seeds = _models(checkpoint), asked.seeds()
    settings = {"max_tokens": asked.max_tokens, "temperature": asked.temperature}
    request |= {side: asked.messages(side) for side in SIDES}
    request["params"] = {side: {**settings, "seed": seeds[side]} for side in SIDES}
    return sse.response(_frames(request, first=sse.frame("begin", {"seeds": seeds}).data))


def stream_opening(checkpoint: Checkpoint) -> StreamingHttpResponse:
    """Reads the models before anybody asks: `loading` if that is still to do, and `done`. Raises as `stream_replies`."""
    return sse.response(_frames(_models(checkpoint)))


def checked(values: Any) -> ChatRequest:
    """Raises ConfigError."""
    return validated(ChatRequest, values)


def _models(checkpoint: Checkpoint) -> dict[str, Any]:
    if not checkpoint.sampler_uri:
        raise CheckpointError("This checkpoint holds no weights to sample from.")
    if checkpoint.is_expired:
        raise CheckpointError("This checkpoint has expired: whoever kept its weights has removed them.")
    config = checkpoint.run.load_config()
    check_samples(config.backend.kind)
    resolve(config.model.name)
    return {
        "model": config.model.name,
        "checkpoint": checkpoint.sampler_uri,
        "backend": config.backend.model_dump(mode="json"),
        "secrets": backend_secrets(checkpoint.run.project, config.backend),
    }


async def _frames(request: dict[str, Any], *, first: bytes = b"") -> AsyncIterator[bytes]:
    yield first
    try:
        async for event in ask(request):
            yield sse.frame(event.pop("event"), event).data
    except RecipeError as error:
        yield sse.frame("error", {"side": None, "message": str(error)}).data
    yield sse.frame("done", {}).data
