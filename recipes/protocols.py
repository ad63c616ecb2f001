"""What the parts promise each other. The loop, the algorithms and the web know these shapes and no concrete class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from recipes.types import (
    AdamParams,
    Checkpoint,
    Datum,
    ForwardBackwardResult,
    LoopState,
    LossCallable,
    Metrics,
    OptimStepResult,
    Row,
    RunContext,
    RunResult,
    SampledSequence,
    SampleResult,
    SamplingParams,
    TrainingBatch,
    Trajectory,
)

if TYPE_CHECKING:
    from recipes.config import BaseAlgorithmConfig, ModelConfig


@runtime_checkable
class Algorithm(Protocol):
    """A training recipe. The constructor takes the Config's fields as keyword arguments."""

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]

    # Besides, if it has something to say: `runs_on: frozenset[str]`, the kinds of backends that it trains on (else any
    # that does what it needs), `row_format`, `summary`, `gives_rollouts`, `own_backend`.

    def train(self, ctx: RunContext) -> RunResult:
        """Execute one whole run; report through `ctx.callbacks` while it trains."""
        ...


class SamplingClient(Protocol):
    """Samples from one fixed set of weights; training on does not change what it says."""

    async def sample_async(
        self,
        *,
        prompt: Sequence[int],
        params: SamplingParams,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> SampleResult:
        """`num_samples` continuations of the prompt's token ids. Concurrent calls may be batched together."""
        ...

    async def compute_logprobs_async(self, prompt: Sequence[int]) -> list[float | None]:
        """Log-probability of each prompt token given those before it; the first is None."""
        ...


@runtime_checkable
class StreamingClient(Protocol):
    """What a SamplingClient may offer besides: tokens told as they are drawn. One that does not answers all at once."""

    async def stream_async(
        self, *, prompt: Sequence[int], params: SamplingParams, on_token: Callable[[int], None]
    ) -> SampledSequence:
        """One continuation. `on_token` hears each token of it, in order, in the event loop, before this returns; cancelling
        ends the sampling."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Where weights live. The `_async` methods have *submitted* their work when they return; awaiting gives the result.

    Submissions run in order. Gradients accumulate over forward_backward calls until optim_step_async.
    Losses are sums over tokens (see `recipes.losses`). Raises BackendError, with `permanent` saying whether to try again.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    ignored_fields: ClassVar[frozenset[str]]
    """Names of BaseAlgorithmConfig fields that this backend cannot honour: the form says so."""
    gives_topk_prompt_logprobs: ClassVar[bool]
    """Its samplers tell the likeliest tokens at each position of a prompt; algorithms with a teacher need them."""

    # `check_algorithm(settings, chosen, model)` besides, a static method: raises ConfigError for settings of an algorithm, or
    # weights to begin from, that cannot be trained there, before a run waits. Its Config may have `switched_off`: see `effects`.
    # `samples = False` besides, where nothing can be sampled from here: evals and chats have no use for it, nor algorithms with
    # rollouts, unless `samples_in_training = True`: by what trains, while it trains. `check_sampling(chosen)` besides, a static
    # method: raises ConfigError for settings with which not even that.

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
    ) -> Backend:
        """Load or connect. `config` is an instance of this class's Config. `report(level, sentence)` tells the run's reader what
        is being waited for. Raises ConfigError, BackendError."""
        ...

    def forward_backward_async(
        self, data: Sequence[Datum], *, loss_fn: str, loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]: ...

    def forward_backward_custom_async(self, data: Sequence[Datum], loss_fn: LossCallable) -> Awaitable[ForwardBackwardResult]: ...

    def forward_async(
        self, data: Sequence[Datum], *, loss_fn: str = "cross_entropy", loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        """The same numbers without a gradient: validation never trains."""
        ...

    def optim_step_async(self, adam: AdamParams) -> Awaitable[OptimStepResult]: ...

    async def save_for_sampler(self, name: str) -> str:
        """Weights only, as an URI (a folder on the local backend)."""
        ...

    async def save_full_state(self, name: str) -> str:
        """Weights, optimizer moments, random state: enough for `load_full_state` to go on bit for bit."""
        ...

    async def load_full_state(self, uri: str) -> None: ...

    async def snapshot_sampling_client(self, name: str | None = None) -> SamplingClient:
        """A client on the weights as they are now; later steps do not reach it."""
        ...

    async def reference_sampling_client(self) -> SamplingClient:
        """A client on the frozen base weights: teacher, DPO reference."""
        ...

    def get_tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        ...

    async def close(self) -> None: ...


class SamplingBackend(Protocol):
    """The part of a Backend that evals and chats use."""

    async def snapshot_sampling_client(self, name: str | None = None) -> SamplingClient: ...

    async def reference_sampling_client(self) -> SamplingClient: ...

    def get_tokenizer(self) -> Any: ...

    async def close(self) -> None: ...


@runtime_checkable
class OpensForSampling(Protocol):
    """What a Backend's class may offer besides: weights to sample from, without anything that trains being made for them."""

    async def open_for_sampling(
        self,
        config: BaseModel,
        *,
        model: ModelConfig,
        secrets: Mapping[str, str] | None = None,
        report: Callable[[str, str], None] | None = None,
    ) -> SamplingBackend:
        """A class method. A snapshot of it is `model.init_from_checkpoint`, or the base where that is None. Raises ConfigError,
        CheckpointError, BackendError."""
        ...


@runtime_checkable
class ExpiringBackend(Protocol):
    """What a Backend may offer besides: its checkpoints are kept for a time, and it knows for how long."""

    async def expiry_of(self, uris: Sequence[str]) -> datetime | None:
        """When the first of these is removed, which one save made; None when they stay. Raises BackendError."""
        ...


class StepBuilder(Protocol):
    """The part of an algorithm that the loop drives."""

    async def build_batch(self, step_index: int) -> TrainingBatch: ...

    def step_metrics(self, step_index: int, batch: TrainingBatch, fb_result: ForwardBackwardResult) -> Metrics: ...


class Evaluator(Protocol):
    """Scores a snapshot while training goes on; `run_every` steps, 0 is off. It also runs after the last step.

    All evaluators of a step share one sampler snapshot; one that does not need it gets None.
    """

    name: str
    run_every: int
    needs_sampler: bool

    async def evaluate(self, backend: Backend, sampler: SamplingClient | None, *, step: int) -> Mapping[str, float]: ...


class Callback:
    """Hooks, each a no-op here. All are called in the thread that trains; an exception in one is isolated and recorded."""

    def on_train_start(self, state: LoopState) -> None:
        """`state.start_step` > 0 on a resumed run: whatever was recorded beyond that step is void."""

    def on_train_data(self, ctx: RunContext, rows: Sequence[Row]) -> None: ...

    def on_rollout(self, state: LoopState, step: int, rollouts: Sequence[Trajectory]) -> None: ...

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        """`step` optimizer steps are done. A callback asks for an end by `state.request_stop()`."""

    def on_checkpoint(self, state: LoopState, checkpoint: Checkpoint) -> None: ...

    def on_eval(self, state: LoopState, step: int, name: str, metrics: Metrics) -> None: ...

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        """Something a person should read: level is info, warning or error."""

    def on_train_end(self, state: LoopState, result: RunResult) -> None: ...


class DataStore(Protocol):
    """Where rows come from and artefacts go. Paths are relative to the store's root and cannot leave it."""

    def read_jsonl(self, path: str) -> Iterator[Row]: ...

    def write_jsonl(self, path: str, rows: Iterable[Row]) -> None: ...

    def read_json(self, path: str) -> Any: ...

    def write_json(self, path: str, value: Any) -> None: ...

    def exists(self, path: str) -> bool: ...

    def list(self, prefix: str = "") -> list[str]: ...


class LogStore(Protocol):
    """A place that metrics are written to besides the callbacks."""

    def log_metrics(self, metrics: Metrics, step: int) -> None: ...

    def close(self) -> None: ...
