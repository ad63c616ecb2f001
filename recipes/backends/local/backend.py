"""The local backend: hands every call to one worker thread, so that the event loop never waits for a tensor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel

from recipes.backends.local.config import LocalConfig
from recipes.backends.local.models import resolve
from recipes.errors import ConfigError
from recipes.types import AdamParams, Datum, ForwardBackwardResult, LossCallable, OptimStepResult

if TYPE_CHECKING:
    from recipes.backends.local.engine import Engine
    from recipes.config import BaseAlgorithmConfig, ModelConfig
    from recipes.protocols import SamplingClient

ResultT = TypeVar("ResultT")


class LocalBackend:
    """PyTorch + PEFT in this process. All work runs, in the order submitted, in one thread of its own."""

    name: ClassVar[str] = "local"
    summary: ClassVar[str] = "This machine: PyTorch on its GPU when there is one, else on its processor."
    Config: ClassVar[type[BaseModel]] = LocalConfig
    ignored_fields: ClassVar[frozenset[str]] = frozenset()
    unused_by_evals: ClassVar[frozenset[str]] = frozenset(
        {"lora_alpha_ratio", "gradient_checkpointing", "max_tokens_per_micro_batch"}
    )
    gives_topk_prompt_logprobs: ClassVar[bool] = True
    computes_here: ClassVar[bool] = True
    repeats_exactly: ClassVar[bool] = True
    """The same calls in the same batches give the same bits (float32, one thread): callers may take care to repeat them."""

    def __init__(self, engine: Engine, executor: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._executor = executor

    @classmethod
    async def open(
        cls,
        config: BaseModel,
        *,
        model: ModelConfig,
        algorithm: BaseAlgorithmConfig,
        output_dir: Path,
        secrets: Mapping[str, str] | None = None,
        report: Callable[[str, str], None] | None = None,
    ) -> LocalBackend:
        """Load the model. Raises ConfigError when it cannot be used, BackendError when the machine cannot hold it."""
        resolve(model.name)
        executor = _one_worker()

        def load() -> Engine:
            try:
                from recipes.backends.local.engine import Engine  # torch is imported here, in the worker thread
            except ModuleNotFoundError as missing:
                raise ConfigError(
                    f"The local backend needs {missing.name}, which is not installed here (an installation for hosted training "
                    "leaves it out). Install requirements.txt, or choose another backend.",
                    path=("backend", "kind"),
                ) from None

            return Engine.load(LocalConfig.model_validate(config.model_dump()), model, algorithm, output_dir)

        with ExitStack() as undo:  # whatever ends it, a cancellation too: the thread would outlive the run
            undo.callback(executor.shutdown, wait=False)
            engine = await asyncio.get_running_loop().run_in_executor(executor, load)
            undo.pop_all()
        return cls(engine, executor)

    @classmethod
    def around(cls, engine: Engine) -> LocalBackend:
        """A backend on an engine that is there already."""
        return cls(engine, _one_worker())

    def beside(self) -> LocalBackend:
        """The same engine with another thread, to sample from both at once. Nobody may train meanwhile."""
        return self.around(self._engine)

    def _submit(self, work: Callable[[], ResultT]) -> Awaitable[ResultT]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def forward_backward_async(
        self, data: Sequence[Datum], *, loss_fn: str, loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        return self._submit(lambda: self._engine.forward_backward(data, loss_fn, loss_fn_config))

    def forward_backward_custom_async(self, data: Sequence[Datum], loss_fn: LossCallable) -> Awaitable[ForwardBackwardResult]:
        return self._submit(lambda: self._engine.forward_backward(data, loss_fn))

    def forward_async(
        self, data: Sequence[Datum], *, loss_fn: str = "cross_entropy", loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        return self._submit(lambda: self._engine.forward(data, loss_fn, loss_fn_config))

    def optim_step_async(self, adam: AdamParams) -> Awaitable[OptimStepResult]:
        return self._submit(lambda: self._engine.optim_step(adam))

    async def save_for_sampler(self, name: str) -> str:
        return await self._submit(lambda: str(self._engine.save_for_sampler(name)))

    async def save_full_state(self, name: str) -> str:
        return await self._submit(lambda: str(self._engine.save_full_state(name)))

    async def load_full_state(self, uri: str) -> None:
        await self._submit(lambda: self._engine.load_full_state(uri))

    async def snapshot_sampling_client(self, name: str | None = None) -> SamplingClient:
        """A client on a copy of what was trained so far; the frozen rest is shared. `name` is not needed here."""
        from recipes.backends.local.sampler import LocalSampler

        model, weights = await self._submit(self._engine.snapshot)
        return LocalSampler(self._executor, model, self._engine.tokenizer, weights=weights)

    async def reference_sampling_client(self) -> SamplingClient:
        from recipes.backends.local.sampler import LocalSampler

        model = await self._submit(self._engine.reference)
        return LocalSampler(self._executor, model, self._engine.tokenizer, weights=None)

    def get_tokenizer(self) -> Any:
        return self._engine.tokenizer

    @property
    def max_positions(self) -> int | None:
        """How many tokens the model reads at once; None when it does not say."""
        return self._engine.max_positions

    async def close(self) -> None:
        """Wait for the work submitted, then free the model."""
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)


def _one_worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-engine")
