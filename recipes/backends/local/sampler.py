"""The sampling client of the local backend: requests are gathered in the event loop and decoded together in the engine's thread.

A sampler holds the weights it was given and no others, so training on does not reach it. Nothing here waits for a tensor in
the event loop.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recipes.backends.local.decoding import Decoder, Request, fail
from recipes.backends.local.loading import share
from recipes.backends.local.projection import Projection, find_projection
from recipes.backends.local.scoring import Scores, score
from recipes.errors import BackendError, ConfigError, DataError, RecipeError
from recipes.types import SampledSequence, SampleResult, SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

TURN_SECONDS = 1.0
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>", "<|endofturn|>")
"""Tokens that chat templates close a turn with, where the tokenizer's own end-of-text is another."""


@dataclass(eq=False)
class _ScoreRequest:
    prompt: list[int]
    topk: int
    done: Future[Scores] = field(default_factory=Future)


class LocalSampler:
    """A SamplingClient on `model`, a plain transformers causal model, with `weights` (name → tensor) put in place of its own.

    All other tensors are shared, none is written to. Work runs in `executor`, one thread, in the order it was submitted;
    calls made meanwhile join the batch that is being decoded, of at most `max_rows` samples (by default as suits the device).
    num_waiting: how much work waits for that thread, where others use it too: after TURN_SECONDS they get their turn, however
    much there is to do here.
    """

    def __init__(
        self,
        executor: Executor,
        model: Any,
        tokenizer: Any,
        *,
        weights: Mapping[str, Tensor] | None = None,
        max_rows: int | None = None,
        num_waiting: Callable[[], int] | None = None,
    ) -> None:
        self._executor = executor
        self._source: tuple[Any, Mapping[str, Tensor] | None] = (model, weights)
        self._tokenizer = tokenizer
        self._max_rows = max_rows
        self._num_waiting = num_waiting
        self._model: Any = None
        self._decoder: Decoder | None = None
        self._projection: Projection | None = None
        self._gathered: list[Request] = []
        self._gathered_to_score: list[_ScoreRequest] = []
        self._waiting: deque[Request] = deque()
        self._to_score: deque[_ScoreRequest] = deque()
        self._scoring: list[_ScoreRequest] = []
        self._is_scheduled = False
        self._lock = threading.Lock()
        self._num_submitted = 0
        self._stop_ids = turn_end_ids(model, tokenizer)
        config = model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        self._max_positions = limit if isinstance(limit, int) and limit > 0 else None
        self._vocab_size = int(config.vocab_size)

    async def sample_async(
        self,
        *,
        prompt: Sequence[int],
        params: SamplingParams,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> SampleResult:
        """`num_samples` continuations, each at most `max_tokens` long or until the model's positions are used up.

        Raises DataError for a prompt that cannot be read, ConfigError for settings that make no sense, BackendError.
        """
        request = self._request(prompt, params, num_samples)
        scores: Future[Scores] | None = None
        if include_prompt_logprobs or topk_prompt_logprobs > 0:
            scores = self._submit_score(request.prompt, topk_prompt_logprobs)
        sequences = await self._finished(request)
        if scores is None:
            return SampleResult(sequences)
        found = await asyncio.wrap_future(scores)
        return SampleResult(
            sequences,
            prompt_logprobs=found.logprobs if include_prompt_logprobs else None,
            topk_prompt_logprobs=found.topk if topk_prompt_logprobs > 0 else None,
        )

    async def stream_async(
        self, *, prompt: Sequence[int], params: SamplingParams, on_token: Callable[[int], None]
    ) -> SampledSequence:
        """One continuation, as `sample_async` would give it; each of its tokens goes to `on_token`, in the event loop, before
        this returns. Cancelling ends the sampling. Raises as `sample_async` does."""
        loop = asyncio.get_running_loop()

        def tell(sample: int, token: int) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody listens any more
                loop.call_soon_threadsafe(on_token, token)

        request = self._request(prompt, params, 1)
        request.on_token = tell
        (sequence,) = await self._finished(request)
        return sequence

    async def compute_logprobs_async(self, prompt: Sequence[int]) -> list[float | None]:
        """Log-probability of each prompt token given those before it; the first is None. Raises DataError, BackendError."""
        found = await asyncio.wrap_future(self._submit_score(self._checked(prompt, num_new=0), 0))
        return found.logprobs

    # ------------------------------------------------------------------ checks, in the event loop

    def _checked(self, prompt: Sequence[int], *, num_new: int) -> list[int]:
        ids = [int(token) for token in prompt]
        if not ids:
            raise DataError("The prompt is empty: give at least one token.", field="prompt")
        if outside := [token for token in ids if not 0 <= token < self._vocab_size]:
            raise DataError(
                f"The prompt holds token id {outside[0]}, but the model's vocabulary has {self._vocab_size} ids. "
                "Was it made with another tokenizer?",
                field="prompt",
            )
        if self._max_positions is not None and len(ids) + num_new > self._max_positions:
            raise DataError(
                f"The prompt has {len(ids)} tokens, the model reads at most {self._max_positions}"
                f"{' and needs space to answer' if num_new else ''}. Shorten the prompt.",
                field="prompt",
            )
        return ids

    def _request(self, prompt: Sequence[int], params: SamplingParams, num_samples: int) -> Request:
        ids = self._checked(prompt, num_new=1)
        check_params(params, num_samples)
        room = params.max_tokens if self._max_positions is None else min(params.max_tokens, self._max_positions - len(ids))
        texts = tuple(item for item in params.stop if isinstance(item, str))
        if texts and self._tokenizer is None:
            raise ConfigError("Stop strings need a tokenizer, and this model has none: give token ids.", path=("stop",))
        return Request(
            prompt=ids,
            params=params,
            seed=secrets.randbits(63) if params.seed is None else params.seed,
            room=room,
            num_samples=num_samples,
            stop_ids=frozenset(item for item in params.stop if isinstance(item, int)),
            stop_texts=texts,
        )

    # ------------------------------------------------------------------ to the worker and back

    async def _finished(self, request: Request) -> list[SampledSequence]:
        self._gathered.append(request)
        self._schedule()
        try:
            return await asyncio.wrap_future(request.done)
        except asyncio.CancelledError:
            request.is_abandoned = True
            raise

    def _submit_score(self, prompt: list[int], topk: int) -> Future[Scores]:
        request = _ScoreRequest(prompt, topk)
        self._gathered_to_score.append(request)
        self._schedule()
        return request.done

    def _schedule(self) -> None:
        """Hand over once the coroutines that are ready now have had their turn, so that their prompts go together."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        """All that was gathered goes over at once, also to a worker that is just ending: what is decoded together must not
        depend on the clock."""
        self._is_scheduled = False
        gathered, self._gathered = self._gathered, []
        to_score, self._gathered_to_score = self._gathered_to_score, []
        self._to_score.extend(to_score)
        self._waiting.extend(gathered)
        try:
            self._submit()
        except RuntimeError as error:  # the executor was shut down
            self._fail(BackendError(f"The local backend is closed ({error}).", permanent=True))

    def _submit(self) -> None:
        """One turn at most waits for the worker. Called in the event loop and in the worker. Raises RuntimeError."""
        with self._lock:
            if self._num_submitted:
                return
            self._num_submitted += 1
        try:
            self._executor.submit(self._work)
        except RuntimeError:
            with self._lock:
                self._num_submitted -= 1
            raise

    def _work(self) -> None:
        """In the worker: everything that waits, and what arrives meanwhile. An error fails those it concerns, no others."""
        with self._lock:
            self._num_submitted -= 1
        began = time.monotonic()

        def is_over() -> bool:
            return self._is_wanted() and time.monotonic() - began >= TURN_SECONDS

        try:
            decoder = self._open()
            if self._num_waiting is not None and not decoder.is_busy:
                decoder.measure_memory()
            while self._to_score or self._waiting or decoder.is_busy:
                with _failing(self._scoring):
                    self._score()
                with _failing(decoder.started):
                    decoder.run(self._waiting, is_over)
                if is_over():
                    self._submit()
                    return
        except BaseException as error:  # nothing foreseen: nobody may wait for ever
            self._fail(error)
            raise

    def _is_wanted(self) -> bool:
        """Whether others wait for the thread: more than this sampler's own next turn."""
        return self._num_waiting is not None and self._num_waiting() > self._num_submitted

    def _open(self) -> Decoder:
        if self._decoder is None:
            model, weights = self._source
            self._model = share(model, weights).eval()
            self._projection = find_projection(self._model)
            self._decoder = Decoder(self._model, stop_ids=self._stop_ids, tokenizer=self._tokenizer, max_rows=self._max_rows)
            self._source = (None, None)
        return self._decoder

    def _score(self) -> None:
        self._scoring.clear()
        while self._to_score:
            request = self._to_score.popleft()
            if request.done.set_running_or_notify_cancel():
                self._scoring.append(request)
        for topk in {request.topk for request in self._scoring}:
            chosen = [request for request in self._scoring if request.topk == topk]
            found = score(self._model, self._projection, [request.prompt for request in chosen], topk=topk)
            for request, scores in zip(chosen, found, strict=True):
                request.done.set_result(scores)

    def _fail(self, error: BaseException) -> None:
        """Everyone who waits here. The queues are emptied first: who is told may ask again at once."""
        concerned: list[Future[Any]] = [request.done for request in self._scoring]
        concerned += [request.done for request in (self._decoder.started if self._decoder is not None else ())]
        while self._waiting:
            concerned.append(self._waiting.popleft().done)
        while self._to_score:
            concerned.append(self._to_score.popleft().done)
        for future in concerned:
            fail(future, error)


@contextmanager
def _failing(concerned: Collection[Request | _ScoreRequest]) -> Iterator[None]:
    """An error that can be foreseen is told to those it concerns. Rows that rest beside them go on."""
    try:
        yield
    except (RecipeError, RuntimeError, MemoryError) as error:
        for request in concerned:
            fail(request.done, error)


def check_params(params: SamplingParams, num_samples: int) -> None:
    """Raises ConfigError that names the setting."""
    for name, holds, wanted in (
        ("num_samples", num_samples >= 1, "at least 1"),
        ("max_tokens", params.max_tokens >= 1, "at least 1"),
        ("temperature", math.isfinite(params.temperature) and params.temperature >= 0, "0 (greedy) or above"),
        ("top_p", 0 < params.top_p <= 1, "above 0 and at most 1 (off)"),
        ("top_k", params.top_k >= -1, "at least 1, or -1 (off)"),
        ("stop", all(item != "" for item in params.stop), "texts that are not empty, or token ids"),
    ):
        if not holds:
            found = num_samples if name == "num_samples" else getattr(params, name)
            raise ConfigError(f"{name} must be {wanted}, not {found!r}.", path=(name,))


def turn_end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that always stop: the ends that tokenizer, model and generation config name, and the chat template's end of turn."""
    ids: set[int] = set()
    for holder in (model.config, getattr(model, "generation_config", None), tokenizer):
        found = getattr(holder, "eos_token_id", None)
        ids.update(found if isinstance(found, list | tuple) else [found] if isinstance(found, int) else [])
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str):
        added = tokenizer.get_added_vocab()
        ids.update(added[mark] for mark in _TURN_ENDS if mark in template and mark in added)
    return frozenset(ids)
