"""Sampling in rounds, so that conversations of several turns can be repeated bit for bit.

A sampler decodes together what it is asked at one time, and how many rows are computed together moves the last bit of a
log-probability. Left to themselves, second turns come as first ones end, in batches that depend on the clock. In rounds they wait
for the slowest of the turn, and a round is the same set of requests, in the same order, each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recipes.chat import ChatClient, Message, Reply
from recipes.types import SamplingParams

_SETTLE = 16
"""Turns of the event loop after a round's last reply: environments that do not wait for the outside have asked again by then."""


@dataclass(eq=False, slots=True)
class _Asked:
    messages: Sequence[Message]
    params: SamplingParams
    num_samples: int
    tools: Sequence[Any] | None
    replies: asyncio.Future[list[Reply]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    work: asyncio.Task[None] | None = None


class Rounds:
    """A ChatClient that passes on what it is asked in rounds, ordered by seed."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self._asked: list[_Asked] = []
        self._sender: asyncio.Task[None] | None = None

    @property
    def concurrency(self) -> int:
        return self._client.concurrency

    async def sample(
        self, messages: Sequence[Message], params: SamplingParams, num_samples: int = 1, *, tools: Sequence[Any] | None = None
    ) -> list[Reply]:
        """As ChatClient."""
        asked = _Asked(messages, params, num_samples, tools)
        self._asked.append(asked)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        try:
            return await asked.replies
        except asyncio.CancelledError:
            if asked.work is not None:
                asked.work.cancel()
            raise

    async def close(self) -> None:
        await self._client.close()

    async def _send(self) -> None:
        """Until a round has passed after which nobody asks."""
        try:
            while True:
                for _ in range(_SETTLE):
                    await asyncio.sleep(0)
                waiting = [asked for asked in self._asked if not asked.replies.done()]
                self._asked.clear()
                if not waiting:
                    return
                waiting.sort(key=lambda asked: asked.params.seed or 0)
                for asked in waiting:
                    asked.work = asyncio.create_task(self._answer(asked))
                await asyncio.wait([asked.work for asked in waiting if asked.work is not None])
        finally:
            self._sender = None

    async def _answer(self, asked: _Asked) -> None:
        try:
            found = await self._client.sample(asked.messages, asked.params, asked.num_samples, tools=asked.tools)
        except Exception as error:  # noqa: BLE001 - handed on to whoever asked
            if not asked.replies.done():
                asked.replies.set_exception(error)
        else:
            if not asked.replies.done():
                asked.replies.set_result(found)
