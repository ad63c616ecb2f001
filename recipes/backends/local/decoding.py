"""Runs sampling requests to their end in one batch that others join as they come and leave as they finish.

A prompt is read once, then spread over its samples. Between two tokens, finished rows are compacted away once they are a fair
share of the batch, and waiting requests move into the free space. Book-keeping is in arrays over rows: Python's own work per
token does not grow with the batch.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from recipes.backends.local.batching import plan
from recipes.backends.local.contexts import Context, Index, PaddedContext, UniformContext
from recipes.backends.local.drawing import Knobs, draw
from recipes.backends.local.loading import is_out_of_memory
from recipes.errors import BackendError
from recipes.types import Array, SampledSequence, SamplingParams, StopReason

_MAX_ROWS = 1024
_LOGITS_BYTES = {"cpu": 1 << 27, "cuda": 1 << 31}
_PROMPT_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 15}
_COMPACT_BELOW = 0.8
"""Share of rows still running below which finished ones are compacted away."""
_JOIN_ABOVE = 0.25
"""Share of the batch's rows that must be free before waiting requests join."""
_BLOCK = 64
"""Uniform numbers are drawn, and space for tokens is made, so many at a time."""
_LOOK_EVERY = 16
"""Steps between looks at which requests were abandoned."""
_TAIL_TOKENS = 4
"""Tokens decoded beyond a stop text's own bytes, so that its first character is whole."""
_PROBE_TOKENS = 9
_UNLIMITED = 1 << 40

_windows: dict[str, int] = {}


@dataclass(eq=False)
class Request:
    """`num_samples` continuations of a prompt; `room`: the most new tokens; `stop_ids` beside the model's own.
    on_token(sample, token): called in the decoding thread with each token as it is drawn; it must not raise, nor take long."""

    prompt: list[int]
    params: SamplingParams
    seed: int
    room: int
    num_samples: int
    stop_ids: frozenset[int] = frozenset()
    stop_texts: tuple[str, ...] = ()
    on_token: Callable[[int, int], None] | None = None
    done: Future[list[SampledSequence]] = field(default_factory=Future)
    is_abandoned: bool = False
    num_started: int = 0
    sequences: dict[int, SampledSequence] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """The most tokens that one of its rows can come to."""
        return len(self.prompt) + self.room

    def random_numbers(self, sample: int) -> np.random.Generator:
        """The sample's own stream, keyed by seed + sample and by the prompt: tasks under one seed do not share their luck."""
        digest = zlib.crc32(np.array(self.prompt, dtype=np.int64).tobytes())
        return np.random.Generator(np.random.Philox(key=(digest << 64) + (self.seed + sample) % (1 << 64)))

    def finish(self, sample: int, sequence: SampledSequence) -> None:
        self.sequences[sample] = sequence
        if len(self.sequences) == self.num_samples and not self.done.done():
            self.done.set_result([self.sequences[index] for index in range(self.num_samples)])


@dataclass
class _Rows:
    """R rows in flight, one array entry each. said, logprobs (R, C): the first `count` are used. pending: said, not yet read."""

    request: Array
    sample: Array
    random: Array
    count: Array
    limit: Array
    alive: Array
    watched: Array
    heard: Array
    pending: Array
    uniforms: Array
    said: Array
    logprobs: Array
    temperature: Array
    top_k: Array
    top_p: Array

    def __post_init__(self) -> None:
        self._knobs: Knobs | None = None

    @classmethod
    def start(cls, starts: Sequence[tuple[Request, int]]) -> _Rows:
        """Rows for the next so many samples of each request."""
        owners: list[Request] = []
        samples: list[int] = []
        for request, num in starts:
            owners += [request] * num
            samples += range(request.num_started, request.num_started + num)
            request.num_started += num
        num_rows = len(owners)
        generators = [request.random_numbers(sample) for request, sample in zip(owners, samples, strict=True)]
        return cls(
            request=_objects(owners),
            sample=np.array(samples, dtype=np.int64),
            random=_objects(generators),
            count=np.zeros(num_rows, dtype=np.int64),
            limit=np.array([request.room for request in owners], dtype=np.int64),
            alive=np.ones(num_rows, dtype=bool),
            watched=np.array([bool(request.stop_ids or request.stop_texts) for request in owners], dtype=bool),
            heard=np.array([request.on_token is not None for request in owners], dtype=bool),
            pending=np.zeros(num_rows, dtype=np.int64),
            uniforms=np.zeros((num_rows, _BLOCK)),
            said=np.zeros((num_rows, _BLOCK), dtype=np.int64),
            logprobs=np.zeros((num_rows, _BLOCK), dtype=np.float32),
            temperature=np.array([request.params.temperature for request in owners], dtype=np.float32),
            top_k=np.array([request.params.top_k for request in owners], dtype=np.int64),
            top_p=np.array([request.params.top_p for request in owners], dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.count)

    def knobs(self, device: torch.device) -> Knobs:
        if self._knobs is None:
            self._knobs = Knobs(self.temperature, self.top_k, self.top_p, device)
        return self._knobs

    def select(self, index: Index) -> _Rows:
        return _Rows(**{item.name: getattr(self, item.name)[index] for item in fields(self)})

    def join(self, other: _Rows) -> _Rows:
        width = max(self.said.shape[1], other.said.shape[1])
        self.widen(width)
        other.widen(width)
        return _Rows(
            **{item.name: np.concatenate([getattr(self, item.name), getattr(other, item.name)]) for item in fields(self)}
        )

    def widen(self, width: int) -> None:
        """Make space for `width` tokens per row."""
        missing = width - self.said.shape[1]
        if missing > 0:
            self.said = np.pad(self.said, ((0, 0), (0, missing)))
            self.logprobs = np.pad(self.logprobs, ((0, 0), (0, missing)))

    def next_uniforms(self) -> Array:
        """(R,) the next number of each row's own stream."""
        place = self.count % _BLOCK
        for row in np.flatnonzero((place == 0) & self.alive):
            self.uniforms[row] = self.random[row].random(_BLOCK)
        return np.asarray(self.uniforms[np.arange(len(self)), place])

    def record(self, tokens: Array, logprobs: Array) -> None:
        if int(self.count.max()) == self.said.shape[1]:
            self.widen(2 * self.said.shape[1])
        everyone = np.arange(len(self))
        self.said[everyone, self.count] = tokens
        self.logprobs[everyone, self.count] = logprobs
        self.count += self.alive
        self.pending = tokens


def _objects(items: Sequence[Any]) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


class Decoder:
    """One model, and the batch that it is working on. Everything here runs in the thread that calls `run`."""

    def __init__(self, model: Any, *, stop_ids: frozenset[int], tokenizer: Any, max_rows: int | None = None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._window = padded_window(model)
        self._stop_ids = np.array(sorted(stop_ids), dtype=np.int64)
        vocab_size = int(model.config.get_text_config().vocab_size)
        device = model.device.type
        max_rows_here = min(_MAX_ROWS, _LOGITS_BYTES.get(device, 1 << 27) // (4 * vocab_size))
        self._max_rows = max_rows or max(1, max_rows_here)
        self._max_prompt_tokens = _PROMPT_TOKENS.get(device, 1 << 13)
        self._bytes_per_token = bytes_per_token(model)
        self._memory = memory_for_context(model.device)
        self._context: Context | None = None
        self._rows: _Rows | None = None
        self.started: set[Request] = set()
        self._num_steps = 0

    @torch.inference_mode()
    def run(self, waiting: deque[Request], is_over: Callable[[], bool] = lambda: False) -> None:
        """Until nothing waits and every row is finished, or this turn is over: asked after each token, and the next call goes on
        there. After an error, `started` are those that it keeps from their end."""
        if self._rows is None:
            self.started.clear()
        try:
            while waiting or self._rows is not None:
                if waiting and self._has_space():
                    self._join(self._choose(waiting))
                if self._rows is not None:
                    self._advance()
                if is_over():
                    return
        except BaseException:
            self._rows = self._context = None
            raise

    @property
    def is_busy(self) -> bool:
        return self._rows is not None

    def measure_memory(self) -> None:
        """Anew, for the batch that comes: others may have taken some. Not while one is under way."""
        self._memory = memory_for_context(self._model.device)

    # ------------------------------------------------------------------ who is in the batch

    def _has_space(self) -> bool:
        if self._rows is None:
            return True
        return isinstance(self._context, PaddedContext) and self._rows.alive.sum() <= (1 - _JOIN_ABOVE) * self._max_rows

    def _choose(self, waiting: deque[Request]) -> list[tuple[Request, int]]:
        """The waiting samples that fit beside those running, first come first served: (request, how many of its samples)."""
        others = set(self._rows.request[self._rows.alive]) if self._rows is not None else set()
        num_rows = int(self._rows.alive.sum()) if self._rows is not None else 0
        starts: list[tuple[Request, int]] = []
        while waiting:
            request = waiting[0]
            if request.is_abandoned or request.done.done():
                waiting.popleft()
                continue
            num_free = self._num_rows_of(max(other.length for other in (request, *others))) - num_rows
            if others and (num_free <= 0 or not self._fits_beside(request, others)):
                break
            if not (request.num_started or request.done.set_running_or_notify_cancel()):
                waiting.popleft()
                continue
            num = min(max(1, num_free), request.num_samples - request.num_started)
            starts.append((request, num))
            self.started.add(request)
            others.add(request)
            num_rows += num
            if request.num_started + num < request.num_samples:
                break
            waiting.popleft()
        return starts

    def _fits_beside(self, request: Request, others: set[Request]) -> bool:
        """Padded rows of any length go together; one too long for that only with prompts exactly as long as its own."""
        if request.length <= self._window:
            return all(other.length <= self._window for other in others)
        same = all(other.length > self._window and len(other.prompt) == len(request.prompt) for other in others)
        return same and (len(others) + 1) * len(request.prompt) <= self._max_prompt_tokens

    def _num_rows_of(self, length: int) -> int:
        """How many rows of that many tokens fit into the batch and into memory."""
        return min(self._max_rows, self._memory // (length * self._bytes_per_token))

    def _join(self, starts: list[tuple[Request, int]]) -> None:
        """Read the prompts, draw each sample's first token, and put the rows into the batch."""
        if not starts:
            return
        prompts = [request.prompt for request, _ in starts]
        is_padded = starts[0][0].length <= self._window
        groups = plan([len(prompt) for prompt in prompts], self._max_prompt_tokens) if is_padded else [list(range(len(prompts)))]
        starts = [starts[index] for group in groups for index in group]
        arrived = _Rows.start(starts)
        spread = np.repeat(np.arange(len(starts)), [num for _, num in starts])
        parts: list[tuple[Context, Index]] = []
        logits = []
        first = 0
        for group in groups:
            kind: type[Context] = PaddedContext if is_padded else UniformContext
            context, next_logits = kind.read(self._model, [prompts[index] for index in group])
            parts.append((context, spread[(spread >= first) & (spread < first + len(group))] - first))
            logits.append(next_logits)
            first += len(group)
        self._draw(arrived, torch.cat(logits)[torch.from_numpy(spread).to(self._model.device)])
        if self._rows is not None and self._context is not None:
            parts.insert(0, (self._context, np.arange(len(self._rows))))
            arrived = self._rows.join(arrived)
        self._settle(parts, arrived)

    def _settle(self, parts: list[tuple[Context, Index]], rows: _Rows) -> None:
        """Make the rows still running the batch; the others leave."""
        running = np.flatnonzero(rows.alive)
        if not len(running):
            self._rows = self._context = None
            return
        ends = np.cumsum([len(index) for _, index in parts])
        kept = [(context, index[rows.alive[end - len(index) : end]]) for (context, index), end in zip(parts, ends, strict=True)]
        self._rows = rows.select(running)
        growth = int((self._rows.limit - self._rows.count).max())
        kept = [part for part in kept if len(part[1])]
        self._context = type(kept[0][0]).gather(kept, growth=growth)

    # ------------------------------------------------------------------ one token

    def _advance(self) -> None:
        """Every running row reads its last token and draws the next; those that are finished leave when they are many."""
        rows, context = self._rows, self._context
        assert rows is not None and context is not None
        self._draw(rows, context.feed(torch.from_numpy(rows.pending).to(self._model.device)))
        self._num_steps += 1
        if self._num_steps % _LOOK_EVERY == 0:
            rows.alive &= np.array([not request.is_abandoned for request in rows.request], dtype=bool)
        if rows.alive.sum() < _COMPACT_BELOW * len(rows) or context.is_full:
            self._settle([(context, np.arange(len(rows)))], rows)

    def _draw(self, rows: _Rows, logits: torch.Tensor) -> None:
        uniforms = torch.from_numpy(rows.next_uniforms()).to(logits.device)
        drawn = draw(logits, rows.knobs(logits.device), uniforms)
        tokens, logprobs = drawn.tokens.cpu().numpy(), drawn.logprobs.cpu().numpy()
        if not np.isfinite(logprobs[rows.alive]).all():
            raise BackendError(
                "The model gives no finite probabilities: its weights have diverged. Go back to an earlier checkpoint and lower "
                "the learning rate.",
                permanent=True,
            )
        rows.record(tokens, logprobs)
        for row in np.flatnonzero(rows.heard & rows.alive):
            rows.request[row].on_token(int(rows.sample[row]), int(tokens[row]))
        ended = (tokens[:, None] == self._stop_ids[None]).any(1)
        for row in np.flatnonzero(rows.watched & rows.alive):
            ended[row] = ended[row] or self._says_stop(rows, int(row))
        for row in np.flatnonzero((ended | (rows.count >= rows.limit)) & rows.alive):
            count = rows.count[row]
            sequence = SampledSequence(
                tokens=rows.said[row, :count].tolist(),
                logprobs=rows.logprobs[row, :count].tolist(),
                stop_reason=StopReason.STOP if ended[row] else StopReason.LENGTH,
            )
            rows.request[row].finish(int(rows.sample[row]), sequence)
            rows.alive[row] = False

    def _says_stop(self, rows: _Rows, row: int) -> bool:
        """The last token is one of the request's own, or completes one of its texts, wherever the tokens' borders lie."""
        request: Request = rows.request[row]
        count = rows.count[row]
        if int(rows.said[row, count - 1]) in request.stop_ids:
            return True
        if not request.stop_texts:
            return False
        tail = max(len(text.encode()) for text in request.stop_texts) + _TAIL_TOKENS
        said = self._tokenizer.decode(rows.said[row, max(0, count - tail) : count].tolist(), skip_special_tokens=False)
        return any(text in said for text in request.stop_texts)


def fail(future: Future[Any], error: BaseException) -> None:
    """Give the error to whoever waits, if anyone still does; out of memory as a sentence."""
    if is_out_of_memory(error):
        error = BackendError(
            "Out of memory while sampling. Lower max_tokens, shorten the prompts, or sample fewer at once.", permanent=True
        )
    elif isinstance(error, RuntimeError | MemoryError):
        error = BackendError(f"Sampling failed: {error}", permanent=True)
    if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
        future.set_exception(error)


def padded_window(model: Any) -> int:
    """Up to how many tokens rows may be padded: those that every layer sees, or 0 for a model that does not take it well.

    Not taken on trust: two prompts of different lengths are read and continued together, and compared with each alone.
    """
    config = model.config.get_text_config()
    key = f"{type(model).__name__} {model.device.type} {model.dtype} {config.to_json_string()}"
    if key not in _windows:
        windows = [
            value
            for name in ("sliding_window", "attention_chunk_size")
            if isinstance(value := getattr(config, name, None), int) and value > 0
        ]
        limit = min([_UNLIMITED, *windows])
        _windows[key] = limit if limit > _PROBE_TOKENS and _takes_padding(model) else 0
    return _windows[key]


@torch.inference_mode()
def _takes_padding(model: Any) -> bool:
    vocab_size = model.get_input_embeddings().weight.shape[0]
    ids = [(7 * place + 3) % vocab_size for place in range(_PROBE_TOKENS)]
    long, short = ids, ids[2:6]
    try:
        context, _ = PaddedContext.read(model, [long[:-1], short[:-1]])
        context = PaddedContext.gather([(context, np.array([1, 0, 1]))], growth=1)
        found = context.feed(torch.tensor([short[-1], long[-1], short[-1]], device=model.device))
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        return False
    for row, prompt in enumerate((short, long, short)):
        alone = model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False).logits[0, -1].float()
        tolerance = (1e-4 if model.dtype == torch.float32 else 0.05) * float(alone.abs().max().clamp(min=1e-3))
        if not float((found[row] - alone).abs().max()) <= tolerance:
            return False
    return True


def bytes_per_token(model: Any) -> int:
    """Of keys and values in all layers, by the config; models that keep less are overestimated."""
    config = model.config.get_text_config()
    num_heads = getattr(config, "num_attention_heads", None) or 1
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    num_heads = getattr(config, "num_key_value_heads", None) or num_heads
    return int(2 * config.num_hidden_layers * num_heads * head_dim * model.dtype.itemsize)


def memory_for_context(device: torch.device) -> int:
    """Bytes that keys and values may take: half of what is free on a GPU, a quarter on a CPU, where others live too."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
