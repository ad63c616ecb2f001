"""Chat sampling: messages in, replies out, from a local model or any backend's snapshot. Servers: `recipes.endpoint`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from recipes.chat_templates import decoder_of
from recipes.protocols import SamplingClient, StreamingClient
from recipes.rendering import Asked, Prompt, render_prompts
from recipes.types import SampledSequence, SamplingParams, Turn

Message = Mapping[str, Any]
MOST_HELD = 8
"""Tokens after which a replacement character is taken for what the model meant to say."""


@dataclass(slots=True)
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


class _Unrendered(NamedTuple):
    """A prompt that is gathered to be rendered with others."""

    asked: Asked
    prompt: asyncio.Future[Prompt]


class _Heard(NamedTuple):
    """What tokens say, as text, the message that it makes, and how it ended."""

    text: str
    message: dict[str, str]
    stop_reason: str


class LocalChat:
    """Replies from a SamplingClient, through the model's own chat template. Closes nothing: the backend stays its owner's.

    concurrency is large on purpose: the sampler makes its own batches, and the more it can choose from, the fuller they are.
    """

    def __init__(
        self, client: SamplingClient, tokenizer: Any, *, concurrency: int = 4096, enable_thinking: bool | None = None
    ) -> None:
        self.concurrency = concurrency
        self._enable_thinking = enable_thinking
        self._client = client
        self._tokenizer = tokenizer
        self._decode = decoder_of(tokenizer)
        self._unrendered: list[_Unrendered] = []

    async def sample(
        self, messages: Sequence[Message], params: SamplingParams, num_samples: int = 1, *, tools: Sequence[Any] | None = None
    ) -> list[Reply]:
        """As ChatClient. Raises RenderingError, a DataError, for messages that the chat template refuses."""
        prompt = await self._rendered(messages, tools or None)
        thinks = opens_reasoning(prompt.text)
        began = time.perf_counter()
        result = await self._client.sample_async(prompt=prompt.token_ids, params=params, num_samples=num_samples)
        seconds = time.perf_counter() - began
        heard: dict[tuple[int, ...], _Heard] = {}
        return [self._reply(prompt.token_ids, sequence, params, thinks, seconds, heard) for sequence in result.sequences]

    async def stream(self, messages: Sequence[Message], params: SamplingParams, on_text: Callable[[str], None]) -> Reply:
        """One reply, whose raw text goes to `on_text` piece by piece as it is drawn, reasoning included; all at once where the
        sampler cannot stream. Cancelling ends the sampling. Raises as `sample` does."""
        client = self._client
        if not isinstance(client, StreamingClient):
            (reply,) = await self.sample(messages, params)
            on_text(reply.turn.text if reply.turn is not None else reply.text)
            return reply
        prompt = await self._rendered(messages, None)
        pieces = TextPieces(self._tokenizer)
        began = time.perf_counter()
        sequence = await client.stream_async(
            prompt=prompt.token_ids,
            params=params,
            on_token=lambda token: on_text(piece) if (piece := pieces.add(token)) else None,
        )
        if rest := pieces.end():
            on_text(rest)
        return self._reply(prompt.token_ids, sequence, params, opens_reasoning(prompt.text), time.perf_counter() - began, {})

    async def _rendered(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> Prompt:
        """The prompt. All that are asked for in one pass of the event loop go through template and tokenizer together."""
        loop = asyncio.get_running_loop()
        if not self._unrendered:
            loop.call_soon(self._render)
        waiting = _Unrendered((messages, tools), loop.create_future())
        self._unrendered.append(waiting)
        return await waiting.prompt

    def _render(self) -> None:
        waiting, self._unrendered = self._unrendered, []
        prompts: Sequence[Prompt | Exception]
        try:
            prompts = render_prompts([each.asked for each in waiting], self._tokenizer, enable_thinking=self._enable_thinking)
        except Exception as error:  # noqa: BLE001 - a mistake of this program: whoever waits is told
            prompts = [error] * len(waiting)
        for each, prompt in zip(waiting, prompts, strict=True):
            if each.prompt.done():
                continue  # whoever asked has gone
            if isinstance(prompt, Exception):
                each.prompt.set_exception(prompt)
            else:
                each.prompt.set_result(prompt)

    def _reply(
        self,
        prompt: list[int],
        sequence: SampledSequence,
        params: SamplingParams,
        thinks: bool,
        seconds: float,
        heard: dict[tuple[int, ...], _Heard],
    ) -> Reply:
        """heard: what was said to the same prompt before. A small model often says the same again."""
        tokens = tuple(sequence.tokens)
        known = heard.get(tokens)
        if known is None:
            known = heard[tokens] = self._hear(sequence, params, thinks)
        text, message, stop_reason = known
        return Reply(
            text=message["content"],
            message=message.copy(),
            stop_reason=stop_reason,
            num_prompt_tokens=len(prompt),
            num_tokens=len(tokens),
            seconds=seconds,
            turn=Turn(prompt, sequence.tokens, sequence.logprobs, text),
        )

    def _hear(self, sequence: SampledSequence, params: SamplingParams, thinks: bool) -> _Heard:
        whole = self._decode(sequence.tokens)
        ends = [place for item in params.stop if isinstance(item, str) and (place := whole.find(item)) >= 0]
        return _Heard(whole, said(whole[: min(ends)] if ends else whole, thinks=thinks), sequence.stop_reason.value)

    async def close(self) -> None:
        """Nothing is open."""


class TextPieces:
    """Tokens in, text out. A piece is told once it cannot change any more: a character's bytes may lie in several tokens, and
    some tokenizers decode a token differently at the beginning. Decodes a few tokens at a time, not all from the beginning."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = 0  # decoded along, so that the new tokens are decoded as in the middle of a text
        self._told = 0

    def add(self, token: int) -> str:
        """What is new and whole; empty while a character is incomplete."""
        self._tokens.append(token)
        return self._new(is_last=False)

    def end(self) -> str:
        """What was held back."""
        return self._new(is_last=True)

    def _new(self, *, is_last: bool) -> str:
        before = self._decode(self._tokens[self._context : self._told])
        now = self._decode(self._tokens[self._context :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not is_last and len(self._tokens) - self._told < MOST_HELD):
            return ""
        self._context, self._told = self._told, len(self._tokens)
        return now[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


def opens_reasoning(prompt: str) -> bool:
    """The prompt ends with <think>, so that a reply begins within it."""
    return prompt.endswith("<think>", 0, len(prompt.rstrip()))


def said(text: str, *, thinks: bool = False) -> dict[str, str]:
    """A reply as a message, its reasoning apart; see `split_reasoning`."""
    content, reasoning = split_reasoning(text, thinks=thinks)
    message = {"role": "assistant", "content": content}
    return {**message, "reasoning": reasoning} if reasoning else message


class _Parts(NamedTuple):
    content: str
    reasoning: str


def split_reasoning(text: str, *, thinks: bool = False) -> _Parts:
    """What stands in <think> apart from the rest. thinks: the prompt has opened the block already. Reasoning that never ends
    leaves no content: a number in it is no answer."""
    if "think>" not in text and not thinks:
        return _Parts(text, "")
    if "</think>" in text:
        reasoning, _, content = text.partition("</think>")
        return _Parts(content.strip(), reasoning.strip().removeprefix("<think>").strip())
    if thinks or text.lstrip().startswith("<think>"):
        return _Parts("", text.strip().removeprefix("<think>").strip())
    return _Parts(text, "")
