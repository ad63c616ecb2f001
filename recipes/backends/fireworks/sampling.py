"""Sampling in the pool: from what a session has saved, and from the base, for as long as the session lives.

1. The pool answers completions, token ids in and out, below its own address. The SDK asks it, in the event loop of the run: a
   sample that nobody awaits any more is a request that is broken off.
2. What can be refused is refused in words; a pool that is busy or breaks off is asked again by the SDK, seven times. From that it
   also learns how many requests at once the pool likes, over all snapshots of a session. The others queue, and their time stands
   still.
3. A prompt is scored by its echo, all but the first token, whose probability nobody knows. Of the likeliest tokens of a position
   the service tells five at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from recipes.backends.fireworks.config import MOST_LIKELIEST
from recipes.backends.fireworks.sdk_failures import failure_of
from recipes.errors import BackendError, ConfigError, ErrorKind, RecipeError
from recipes.types import SampledSequence, SampleResult, SamplingParams, StopReason

MOST_AT_ONCE = 64
"""Requests that the pool is asked at once, however much of it it likes."""


class Clock:
    """Of one request; around what it does, `timeout` is entered."""

    def __init__(self, seconds: float) -> None:
        self.timeout = asyncio.timeout(None)
        self._left = seconds

    def stop(self) -> None:
        if (ends_at := self.timeout.when()) is not None:
            self._left = ends_at - asyncio.get_running_loop().time()
            self.timeout.reschedule(None)

    def go_on(self) -> None:
        self.timeout.reschedule(asyncio.get_running_loop().time() + self._left)


CLOCK: ContextVar[Clock] = ContextVar("CLOCK")
"""Of the request that is being made: the SDK asks for a slot in its midst, before every try."""


class Slots:
    """What all snapshots of a session share: how many ask at once, and how long each may take."""

    def __init__(self, sdk: Any, place: str, seconds: float) -> None:
        self.controller = _queue(sdk)
        self.place, self.seconds = place, seconds


def _queue(sdk: Any) -> Any:
    """The SDK's own, in which the time of a request stands still. It begins with a few at once and takes back after every 429 and
    503, so that most of a large group waits here."""

    class Queue(sdk.AdaptiveConcurrencyController):  # type: ignore[misc]  # the SDK is imported once it is needed
        async def acquire(self) -> None:
            clock = CLOCK.get()
            clock.stop()
            try:
                await super().acquire()
            except asyncio.CancelledError:
                self._wake_waiters()  # the slot that it may have been given is the next one's
                raise
            clock.go_on()

    return Queue(max_window=MOST_AT_ONCE)


class PoolSampler:
    """Samples from one saved set of weights. client: the SDK's; it closes its connections when nobody has it any more."""

    def __init__(self, client: Any, slots: Slots) -> None:
        self._client = client
        self._slots = slots

    async def sample_async(
        self,
        *,
        prompt: Sequence[int],
        params: SamplingParams,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> SampleResult:
        tokens = [int(token) for token in prompt]
        if not tokens:
            raise ConfigError("A prompt needs at least one token.", path=("prompt",))
        if topk_prompt_logprobs > MOST_LIKELIEST:
            raise ConfigError(
                f"Fireworks tells at most {MOST_LIKELIEST} likeliest tokens of a position, not {topk_prompt_logprobs}.",
                path=("topk_prompt_logprobs",),
            )
        scored = _scoring(len(tokens), topk_prompt_logprobs) if include_prompt_logprobs or topk_prompt_logprobs else {}
        asked = [{**_settings(params, index), **(scored if index == 0 else {})} for index in range(num_samples)]
        try:
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(self._ask(tokens, values)) for values in asked]
        except ExceptionGroup as failures:  # what else was asked is billed no further
            first = failures.exceptions[0]
            raise first from first.__cause__
        found = [task.result() for task in asking]
        return SampleResult(
            sequences=[self._sequence(each) for each in found],
            prompt_logprobs=self._prompt_logprobs(found[0]) if include_prompt_logprobs else None,
            topk_prompt_logprobs=self._likeliest(found[0]) if topk_prompt_logprobs else None,
        )

    async def compute_logprobs_async(self, prompt: Sequence[int]) -> list[float | None]:
        params = SamplingParams(max_tokens=1, temperature=1.0)
        found = (await self.sample_async(prompt=prompt, params=params, include_prompt_logprobs=True)).prompt_logprobs
        assert found is not None
        return found

    def close(self) -> None:
        """Of its connections; in the event loop that sampled."""
        self._client.close()

    async def _ask(self, tokens: list[int], values: dict[str, Any]) -> Any:
        """One completion, as the SDK reads it. Raises BackendError."""
        slots, clock = self._slots, Clock(self._slots.seconds)
        CLOCK.set(clock)  # in a task of its own
        try:
            async with clock.timeout:
                (found,) = await self._client.deployment_sampler.sample_with_prompt_tokens(
                    tokens, n=1, http_timeout=slots.seconds, **values
                )
        except RecipeError:
            raise
        except TimeoutError:
            raise BackendError(
                f"{slots.place} gave no result for sampling within {slots.seconds:g} seconds.",
                permanent=False,
                kind=ErrorKind.TIMEOUT,
            ) from None
        except Exception as error:  # noqa: BLE001 - the SDK's own kinds are told apart there
            raise failure_of(error, "sampling", slots.place) from error
        return found

    def _sequence(self, found: Any) -> SampledSequence:
        tokens = [int(token) for token in found.full_tokens[found.prompt_len :]]
        told = list(found.sampling_logprobs or ())[found.echoed_prompt_logprob_count :]
        # A sampler that reports no log-probabilities must not look like one that was certain of every token.
        logprobs = [float("nan") if value is None else float(value) for value in told] or [float("nan")] * len(tokens)
        reason = StopReason.LENGTH if found.finish_reason == "length" else StopReason.STOP
        return SampledSequence(tokens, logprobs, reason)

    def _prompt_logprobs(self, found: Any) -> list[float | None]:
        """Of all tokens but the first, in the model's own words, whatever the temperature."""
        told = self._echoed(found, found.inference_logprobs, "log-probabilities of a prompt")
        return [None, *(float(value) for value in told)]

    def _likeliest(self, found: Any) -> list[list[tuple[int, float]] | None]:
        what = "likeliest tokens of a prompt"
        ids = self._echoed(found, found.inference_topk_token_ids, what)
        logprobs = self._echoed(found, found.inference_topk_logprobs, what)
        pairs = zip(ids, logprobs, strict=True)
        return [None, *(list(zip(likeliest, scores, strict=True)) for likeliest, scores in pairs)]

    def _echoed(self, found: Any, rows: Sequence[Any] | None, what: str) -> Sequence[Any]:
        count = found.prompt_len - 1
        if count and (rows is None or found.echoed_prompt_logprob_count != count or len(rows) < count):
            raise BackendError(f"{self._slots.place} told no {what}.", permanent=True, kind=ErrorKind.BAD_ANSWER)
        return (rows or ())[:count]


def _settings(params: SamplingParams, index: int) -> dict[str, Any]:
    """Sample `index` draws with a seed of its own."""
    values: dict[str, Any] = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "logprobs": True,
    }
    if params.top_k > 0:
        values["top_k"] = params.top_k
    if params.seed is not None:
        values["seed"] = (params.seed + index) % 2**31
    if params.stop:
        values["stop"] = list(params.stop)
    return values


def _scoring(num_tokens: int, topk: int) -> dict[str, Any]:
    """The echo of all tokens but the first. topk: likeliest tokens that are told besides; 0 tells none."""
    echo = {"echo_last": num_tokens - 1} if num_tokens > 1 else {}
    return {**echo, "top_logprobs": topk} if topk else echo
