"""Models on the local engine: a base is loaded once, each training run has adapters of its own on it, and one thread computes.

A run's requests carry numbers, 1, 2, 3, …, and may arrive out of order or twice. They are done in the order of their numbers; one
that comes again with the same content gets its first id, and with another content a refusal. A request that is missing holds
up those behind it, as it must: they were made on top of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from recipes.backends.local.config import LocalConfig
from recipes.backends.local.engine import Engine
from recipes.backends.local.loading import choose_device, choose_num_threads, load_model, share
from recipes.backends.local.models import resolve
from recipes.backends.local.sampler import LocalSampler
from recipes.chat_templates import load_tokenizer
from recipes.tinker_server.codec import RequestRefused
from recipes.tinker_server.promises import Answer, Promises

ResultT = TypeVar("ResultT")
Parameters = ParamSpec("Parameters")
Submit = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Served:
    """A base model under the name that clients ask for. source: where it is read."""

    name: str
    source: str


class _Base:
    def __init__(self, served: Served, config: LocalConfig) -> None:
        self.model = load_model(served.source, choose_device(config.device), torch.float32)
        torch.set_num_threads(
            choose_num_threads(config.num_threads, sum(parameter.numel() for parameter in self.model.parameters()))
        )
        self.tokenizer = load_tokenizer(served.source)


class EngineThread(ThreadPoolExecutor):
    """One thread, and how much waits for it: a sampler that is asked on and on must let others have it now and then."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="tinker-engine")
        self._lock = threading.Lock()
        self._num_waiting = 0

    def num_waiting(self) -> int:
        return self._num_waiting

    def submit(
        self, fn: Callable[Parameters, ResultT], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[ResultT]:
        def begin() -> ResultT:
            self._count(-1)
            return fn(*args, **kwargs)

        self._count(1)
        try:
            future = super().submit(begin)
        except RuntimeError:  # it was shut down
            self._count(-1)
            raise
        future.add_done_callback(self._uncount)
        return future

    def _uncount(self, done: Future[Any]) -> None:
        """What is called off before it began waits no more."""
        if done.cancelled():
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._num_waiting += change


class Models:
    """The thread that computes, and the bases that it holds."""

    def __init__(self, served: list[Served], config: LocalConfig) -> None:
        self.served = {each.name: each for each in served}
        self._config = config
        self._bases: dict[str, _Base] = {}
        self._executor = EngineThread()

    def submit(self, work: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        """In the order of the calls."""
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def check_name(self, name: str) -> Served:
        """Raises RequestRefused that says which models there are."""
        if name not in self.served:
            raise RequestRefused(f"This server has no model {name!r}; it serves {', '.join(self.served)}.", status=404)
        return self.served[name]

    def open_engine(self, name: str, *, lora_rank: int, seed: int, output_dir: Path) -> Engine:
        """In the thread: adapters of their own on the shared base."""
        base = self._base(name)
        return Engine(share(base.model), self._config, model_name=name, output_dir=output_dir, lora_rank=lora_rank, seed=seed)

    def sampler_of(self, name: str, engine: Engine | None) -> LocalSampler:
        """In the thread: on a copy of what the engine has trained so far, or on the base."""
        base = self._base(name)
        model, weights = (base.model, None) if engine is None else engine.snapshot()
        waiting = self._executor.num_waiting
        return LocalSampler(self._executor, model, base.tokenizer, weights=weights, num_waiting=waiting)

    def tokenizer_id(self, name: str) -> str:
        """A folder, or a hub id, from which a client on this machine can read the tokenizer."""
        return str(resolve(self.check_name(name).source))

    def max_context(self, name: str) -> int | None:
        """None until the base was needed once."""
        base = self._bases.get(name)
        value = getattr(base.model.config.get_text_config(), "max_position_embeddings", None) if base else None
        return value if isinstance(value, int) else None

    def _base(self, name: str) -> _Base:
        if name not in self._bases:
            self._bases[name] = _Base(self.check_name(name), self._config)
        return self._bases[name]

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Turn:
    fingerprint: str
    request_id: str
    begin: asyncio.Future[None]


@dataclass
class TrainingRun:
    """One run of a session: its engine, once it is made, and the order of its requests."""

    run_id: str
    session_id: str
    base_model: str
    lora_rank: int
    engine: Engine | None = None
    next_seq: int = 1
    _turns: dict[int, _Turn] = field(default_factory=dict)

    def take_turn(self, seq_id: int | None, content: bytes, promises: Promises, submit: Submit) -> str:
        """Queue a request; gives the id of its promise. `submit` hands the work to the thread and is called when all requests
        before it have been handed over. Raises RequestRefused for a number that was used for something else."""
        seq_id = max([self.next_seq - 1, *self._turns]) + 1 if seq_id is None else seq_id
        fingerprint = hashlib.sha256(content).hexdigest()
        if (known := self._turns.get(seq_id)) is not None:
            if known.fingerprint != fingerprint:
                raise RequestRefused(f"Request {seq_id} of {self.run_id} was another one.", status=409)
            return known.request_id
        if seq_id < 1:
            raise RequestRefused(f"seq_id counts from 1, it cannot be {seq_id}.")
        begin: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def in_turn() -> Answer:
            await begin
            return await submit()

        request_id = promises.add(self.session_id, in_turn())
        self._turns[seq_id] = _Turn(fingerprint, request_id, begin)
        self._advance()
        return request_id

    def awaits(self, seq_id: Any) -> bool:
        """Whether requests may be held up by this number: it is one, and nothing has come under it."""
        return type(seq_id) is int and seq_id >= 1 and seq_id not in self._turns

    def require_engine(self) -> Engine:
        """In the thread. Raises RequestRefused when the run's model could not be made."""
        if self.engine is None:
            raise RequestRefused(f"The model of {self.run_id} could not be made, so it cannot be trained.")
        return self.engine

    def _advance(self) -> None:
        """Tasks start in the order in which their futures are set, so the thread gets them in order too."""
        while (turn := self._turns.get(self.next_seq)) is not None:
            if not turn.begin.done():
                turn.begin.set_result(None)
            self.next_seq += 1
