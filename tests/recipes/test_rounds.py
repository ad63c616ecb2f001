"""Requests in rounds: what goes together, what an error and a cancellation cost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from recipes.errors import BackendError
from recipes.rounds import Rounds
from recipes.types import SamplingParams
from tests.recipes.test_rollouts import Fake


class Uneven(Fake):
    """Takes longer for some; keeps what is in flight together."""

    def __init__(self, seconds: dict[str, float], **options: Any) -> None:
        super().__init__(**options)
        self.delays = seconds
        self.rounds: list[list[str]] = []
        self.num_now = 0

    async def sample(self, messages: Any, *args: Any, **options: Any) -> Any:
        text = messages[-1]["content"]
        if not self.num_now:
            self.rounds.append([])
        self.num_now += 1
        self.rounds[-1].append(text)
        try:
            await asyncio.sleep(self.delays.get(text, 0))
            return await super().sample(messages, *args, **options)
        finally:
            self.num_now -= 1


async def talk(client: Any, name: str, seed: int, turns: int = 3) -> None:
    for _ in range(turns):
        await client.sample([{"role": "user", "content": name}], SamplingParams(seed=seed))


def test_the_next_turn_waits_for_the_slowest_and_goes_out_in_the_order_of_seeds() -> None:
    async def run() -> list[list[str]]:
        inner = Uneven({"b": 0.02, "a": 0.01})
        client = Rounds(inner)
        await asyncio.gather(talk(client, "c", 3), talk(client, "b", 2), talk(client, "a", 1, turns=2))
        return inner.rounds

    assert asyncio.run(run()) == [["a", "b", "c"], ["a", "b", "c"], ["b", "c"]]


def test_an_error_reaches_who_asked_and_nobody_else() -> None:
    def fail(text: str, number: int) -> None:
        if text == "bad":
            raise BackendError("Gone.", permanent=False)

    async def run() -> list[Any]:
        client = Rounds(Fake(fail))
        return await asyncio.gather(talk(client, "bad", 1), talk(client, "good", 2), return_exceptions=True)

    bad, good = asyncio.run(run())
    assert isinstance(bad, BackendError) and good is None


@pytest.mark.parametrize("after", [0.0, 0.02])
def test_one_that_is_given_up_holds_up_nobody(after: float) -> None:
    """Before its round went out, and while it is out."""

    async def run() -> None:
        inner = Uneven({"slow": 60})
        client = Rounds(inner)
        slow = asyncio.create_task(talk(client, "slow", 1))
        quick = asyncio.create_task(talk(client, "quick", 2))
        await asyncio.sleep(after)
        slow.cancel()
        await asyncio.wait_for(quick, 60)

    asyncio.run(run())
