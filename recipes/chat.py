"""Chat sampling: messages in, replies out, from a local model, a backend's snapshot or an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recipes.types import SamplingParams, Turn

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One sampled reply. `text` is what a verifier reads: the content, without reasoning or tool calls.

    message: the assistant's message, {"role", "content", "reasoning"?, "tool_calls"?}. stop_reason: stop, length, tool_calls or
    the server's own word. turn: token ids and log-probabilities, where the sampler gives them. seconds: from call to answer.
    """

    text: str
    message: dict[str, Any]
    stop_reason: str
    num_prompt_tokens: int
    num_tokens: int
    seconds: float
    turn: Turn | None = None


class ChatClient(Protocol):
    """Replies to conversations. Calls may run concurrently; `concurrency` is how many samples in flight are worthwhile."""

    @property
    def concurrency(self) -> int: ...

    async def sample(
        self, messages: Sequence[Message], params: SamplingParams, num_samples: int = 1, *, tools: Sequence[Any] | None = None
    ) -> list[Reply]:
        """`num_samples` replies; sample i is drawn with seed + i. Raises BackendError with its kind, DataError, ConfigError."""
        ...

    async def close(self) -> None: ...
