"""Samples that queue for the pool, and groups of which one fails, in front of a client that does what the SDK's does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fireworks.training import sdk

from recipes.backends.fireworks.sampling import CLOCK, PoolSampler, Slots
from recipes.errors import BackendError
from recipes.types import SampleResult, SamplingParams


class Client:
    """Takes a slot for each request, and a task, as the SDK does. answer(values): what is said meanwhile."""

    def __init__(self, slots: Slots, answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        self.deployment_sampler, self._slots, self._answer = self, slots, answer
        self.clocks: list[Any] = []

    async def sample_with_prompt_tokens(self, tokens: list[int], **values: Any) -> list[Any]:
        return await asyncio.gather(self._one(values))

    async def _one(self, values: dict[str, Any]) -> Any:
        self.clocks.append(CLOCK.get())
        await self._slots.controller.acquire()
        try:
            return await self._answer(values)
        finally:
            self._slots.controller.release()


def group(client: Client, slots: Slots, count: int) -> asyncio.Task[SampleResult]:
    sampler = PoolSampler(client, slots)
    return asyncio.create_task(sampler.sample_async(prompt=[1], params=SamplingParams(max_tokens=1, seed=0), num_samples=count))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0)


def test_the_time_of_a_request_stands_still_while_it_queues_in_the_sdk() -> None:
    async def scenario() -> None:
        slots = Slots(sdk, "the pool", 600)
        window, go_on = slots.controller.window_size, asyncio.Event()
        asked: list[Any] = []

        async def answer(values: dict[str, Any]) -> Any:
            asked.append(values)
            await go_on.wait()
            raise BackendError("full", permanent=False)

        client = Client(slots, answer)
        sampling = group(client, slots, window + 3)
        await until(lambda: len(asked) == window and len(client.clocks) == window + 3)
        await asyncio.sleep(0)
        assert [clock.timeout.when() is None for clock in client.clocks] == [False] * window + [True] * 3
        go_on.set()
        with pytest.raises(BackendError, match="full"):
            await sampling

    asyncio.run(scenario())


def test_the_time_goes_on_where_it_stood_when_a_try_has_its_slot() -> None:
    async def scenario() -> None:
        slots = Slots(sdk, "the pool", 600)
        ends: list[float] = []

        async def answer(values: dict[str, Any]) -> Any:
            clock, loop = CLOCK.get(), asyncio.get_running_loop()
            ends.append(clock.timeout.when() - loop.time())
            clock.timeout.reschedule(loop.time() + 300)  # half of it has passed
            slots.controller.release()
            await slots.controller.acquire()
            ends.append(clock.timeout.when() - loop.time())
            clock.timeout.reschedule(loop.time())
            await asyncio.Event().wait()

        with pytest.raises(BackendError, match="within 600 seconds"):
            await group(Client(slots, answer), slots, 1)
        assert 500 < ends[0] < 601 and 200 < ends[1] < 301

    asyncio.run(scenario())


def test_one_sample_of_a_group_that_fails_ends_the_others_and_gives_their_slots_back() -> None:
    async def scenario() -> None:
        slots = Slots(sdk, "the pool", 600)
        broken_off: list[int] = []

        async def answer(values: dict[str, Any]) -> Any:
            if values["seed"] == 0:
                await until(lambda: slots.controller.in_flight == 4)
                raise ValueError("no such stop")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                broken_off.append(values["seed"])
                raise

        with pytest.raises(BackendError, match="no such stop"):
            await group(Client(slots, answer), slots, 4)
        assert sorted(broken_off) == [1, 2, 3] and slots.controller.in_flight == 0

    asyncio.run(scenario())
