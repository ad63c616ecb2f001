"""Chat sampling: messages in, replies out, from a local model or any backend's snapshot. Servers: `recipes.endpoint`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from recipes.protocols import SamplingClient
from recipes.rendering import render_prompt
from recipes.types import SampledSequence, SamplingParams, Turn

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


class LocalChat:
    """Replies from a SamplingClient, through the model's own chat template. Closes nothing: the backend stays its owner's.

    concurrency is large on purpose: the sampler makes its own batches, and the more it can choose from, the fuller they are.
    """

    def __init__(self, client: SamplingClient, tokenizer: Any, *, concurrency: int = 4096) -> None:
        self.concurrency = concurrency
        self._client = client
        self._tokenizer = tokenizer

    async def sample(
        self, messages: Sequence[Message], params: SamplingParams, num_samples: int = 1, *, tools: Sequence[Any] | None = None
    ) -> list[Reply]:
        """As ChatClient. Raises RenderingError, a DataError, for messages that the chat template refuses."""
        prompt = render_prompt(messages, self._tokenizer, tools=tools or None)
        thinks = self._tokenizer.decode(prompt[-8:]).rstrip().endswith("<think>")
        began = time.perf_counter()
        result = await self._client.sample_async(prompt=prompt, params=params, num_samples=num_samples)
        seconds = time.perf_counter() - began
        return [self._reply(prompt, sequence, params, thinks, seconds) for sequence in result.sequences]

    def _reply(self, prompt: list[int], sequence: SampledSequence, params: SamplingParams, thinks: bool, seconds: float) -> Reply:
        whole: str = self._tokenizer.decode(sequence.tokens, skip_special_tokens=True)
        ends = [place for item in params.stop if isinstance(item, str) and (place := whole.find(item)) >= 0]
        content, reasoning = split_reasoning(whole[: min(ends)] if ends else whole, thinks=thinks)
        message = {"role": "assistant", "content": content} | ({"reasoning": reasoning} if reasoning else {})
        return Reply(
            text=content,
            message=message,
            stop_reason=str(sequence.stop_reason),
            num_prompt_tokens=len(prompt),
            num_tokens=len(sequence.tokens),
            seconds=seconds,
            turn=Turn(prompt, sequence.tokens, sequence.logprobs, whole),
        )

    async def close(self) -> None:
        """Nothing is open."""


class _Parts(NamedTuple):
    content: str
    reasoning: str


def split_reasoning(text: str, *, thinks: bool = False) -> _Parts:
    """What stands in <think> apart from the rest. thinks: the prompt has opened the block already. Reasoning that never ends
    leaves no content: a number in it is no answer."""
    if "</think>" in text:
        reasoning, _, content = text.partition("</think>")
        return _Parts(content.strip(), reasoning.strip().removeprefix("<think>").strip())
    if thinks or text.lstrip().startswith("<think>"):
        return _Parts("", text.strip().removeprefix("<think>").strip())
    return _Parts(text, "")
