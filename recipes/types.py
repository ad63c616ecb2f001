"""The words of the recipe layer, defined once.

- Datum: one training example as token ids; position i of `model_input` predicts `target_tokens[i]` (already shifted).
- TrainingBatch: the datums of one step, with the loss they train under.
- Turn, Trajectory: what a model read and said, and the reward it earned.
- Checkpoint: weights a run saved, with what is needed to go on from them.
- Step: a completed optimizer step, counted from 1. Only `build_batch(step_index)` counts from 0.

Array names carry shape suffixes: _P problems, _G attempts of a group, _T tokens, _D datums.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from recipes.config import RunConfig
    from recipes.protocols import Backend, DataStore, LogStore

Array = NDArray[Any]
Row = dict[str, Any]
Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Datum:
    """One training example of N positions.

    model_input: (N,) int64 token ids that the model reads.
    loss_fn_inputs: named arrays aligned with the targets; `target_tokens` is (N,) int64, or (N, K) for soft targets;
        `weights`, `logprobs`, `advantages` are float32 of the same shape. Which of them a loss needs: `recipes.losses`.
    """

    model_input: Array
    loss_fn_inputs: Mapping[str, Array]

    @property
    def num_tokens(self) -> int:
        return int(self.model_input.shape[0])


class ModelOutput(NamedTuple):
    """What a custom loss sees of one datum: `logprobs` is a float tensor (N,) of target log-probabilities, with gradient."""

    logprobs: Any


LossCallable = Callable[[ModelOutput, Mapping[str, Any]], Any]
"""loss(model_output, meta) -> scalar tensor, called per datum; `meta` holds the datum's loss_fn_inputs as tensors.
The batch loss is the sum over datums."""


@dataclass
class TrainingBatch:
    """What one step trains on. The loss travels with the data: a name from `recipes.losses`, or a LossCallable."""

    data: list[Datum]
    loss_fn: str | LossCallable = "cross_entropy"
    loss_fn_config: dict[str, Any] | None = None
    metrics: Metrics = field(default_factory=dict)
    rollouts: list[Trajectory] | None = None


class Headline(NamedTuple):
    """The one number that says how a run is going: its metric key, and what pages call it."""

    key: str
    title: str

    @property
    def in_words(self) -> str:
        """The title within a sentence."""
        return self.title if self.title[:2].isupper() else self.title[:1].lower() + self.title[1:]


@dataclass(frozen=True, slots=True)
class AdamParams:
    """AdamW with decoupled decay and bias correction. `grad_clip_norm` 0 means no clipping."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class ForwardBackwardResult:
    """loss_fn_outputs: one mapping per datum, in the order submitted, with at least `logprobs` (N,) of the targets.
    metrics: at least `loss:sum`, the summed loss over all tokens of all datums."""

    loss_fn_outputs: list[dict[str, Array]]
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class OptimStepResult:
    """metrics: what the optimizer measured, e.g. `optim/grad_norm` (before clipping)."""

    metrics: Metrics


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """`stop`: strings, or token ids, besides the model's own end-of-turn (which always stops). `top_k` -1 and `top_p` 1 mean off.
    Sample i of n draws with seed + i, so that the same seed gives the same n samples. temperature 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    stop: Sequence[str] | Sequence[int] = ()


class StopReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class SampledSequence:
    """tokens include the end-of-turn token when it was sampled. logprobs: under the distribution sampled from
    (temperature applied, before top-k/top-p cut), one per token."""

    tokens: list[int]
    logprobs: list[float]
    stop_reason: StopReason


@dataclass(frozen=True, slots=True)
class SampleResult:
    """prompt_logprobs: one per prompt token, the first None. topk_prompt_logprobs: per position None or [(id, logprob), …]."""

    sequences: list[SampledSequence]
    prompt_logprobs: list[float | None] | None = None
    topk_prompt_logprobs: list[list[tuple[int, float]] | None] | None = None


@dataclass(slots=True)
class Turn:
    """One assistant turn: the ids read, the ids said, the log-probabilities of what was said (same length), its text."""

    prompt_tokens: list[int]
    completion_tokens: list[int]
    logprobs: list[float]
    text: str = ""


@dataclass
class Trajectory:
    """The turns of one attempt at a task, and what it earned.

    group, attempt: its place in the step, from 0. advantage: what its tokens were reinforced by; 0 teaches nothing.
    stop_reason: of the last turn. is_rewarded: False where nobody judges, and reward and advantage say nothing.
    demonstration: what a teacher read in place of the question.
    """

    task_id: str
    turns: list[Turn]
    reward: float
    metrics: Metrics = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    group: int = 0
    attempt: int = 0
    advantage: float = 0.0
    is_correct: bool | None = None
    stop_reason: str | None = None
    is_rewarded: bool = True
    demonstration: str = ""

    @property
    def num_tokens(self) -> int:
        """Tokens that the model said."""
        return sum(len(turn.completion_tokens) for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Task:
    """One problem of a benchmark: the conversation so far, and what a verifier compares the reply with.
    tools: definitions of what the model may call."""

    task_id: str
    messages: list[dict[str, Any]]
    answer: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    tools: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, row: Row) -> Task:
        """From a row of the task format, as `recipes.rows.parse` gives it."""
        own_verifier = {"verifier": row["verifier"]} if "verifier" in row else {}
        return cls(
            row["task_id"], row["messages"], row.get("answer"), row.get("metadata", {}) | own_verifier, row.get("tools", [])
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A row of checkpoints.jsonl.

    step: completed optimizer steps. state_path: weights and optimizer, to resume from. sampler_path: weights only, to sample
    from, download or continue from (safetensors + PEFT config on the local backend). cursor: what the loop needs to go on
    exactly where it was (see `recipes.checkpoints`). expires_at: when whoever keeps the weights removes them; None: they stay.
    """

    name: str
    step: int
    state_path: str | None
    sampler_path: str | None
    cursor: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    expires_at: datetime | None = None

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


class StopRequest(StrEnum):
    """NONE; EARLY: finish the step, save it as final, end as completed (there is nothing more to learn); AFTER_STEP: finish the
    step, save, end as cancelled; NOW: abandon the step, save nothing more."""

    NONE = "none"
    EARLY = "early"
    AFTER_STEP = "after_step"
    NOW = "now"


@dataclass
class LoopState:
    """Where a run stands, as callbacks see it. `step` is the number of completed optimizer steps.
    `start_step` is 0, or the step of the checkpoint that was resumed: whatever was recorded beyond it is void.
    `is_leaving`: the stop is not the run's but this worker's; another will go on, so what works elsewhere is left at work."""

    run_id: str
    num_steps: int
    output_dir: Path
    backend: Backend | None = None
    step: int = 0
    start_step: int = 0
    ctx: RunContext | None = None
    stop_requested: StopRequest = StopRequest.NONE
    stop_event: threading.Event = field(default_factory=threading.Event)
    is_leaving: bool = False

    def request_stop(self) -> None:
        """Ask once: stop after this step, with a checkpoint. Ask twice: stop at once. Safe from any thread."""
        asked_before = self.stop_requested in (StopRequest.AFTER_STEP, StopRequest.NOW)
        self.stop_requested = StopRequest.NOW if asked_before else StopRequest.AFTER_STEP
        self.stop_event.set()

    def finish_early(self) -> None:
        """End after this step as completed. Gives way to a stop that somebody asked for."""
        if self.stop_requested is StopRequest.NONE:
            self.stop_requested = StopRequest.EARLY


@dataclass
class RunContext:
    """Everything a run needs. `extras` is where callers' own objects ride along (EvSys' contract); recipes here read only
    `train_rows` (list of rows) and `validation_rows` from it. `secrets` go to the backend and nowhere else."""

    run_id: str
    output_dir: Path
    config: RunConfig
    data_store: DataStore
    log_store: LogStore | None = None
    backend: Backend | None = None
    callbacks: list[Any] = field(default_factory=list)
    resume_from: Checkpoint | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass
class RunResult:
    """How a run ended. `metrics`: the last value of each key. `artifacts`: names to paths or URIs.
    `steps` were executed; the ceiling was `num_steps`."""

    run_id: str
    status: Literal["completed", "failed", "cancelled"]
    metrics: Metrics = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    steps: int = 0
    num_steps: int = 0


def float_array(values: Sequence[float] | Array) -> Array:
    """float32 array, the dtype of every weight, log-probability and advantage."""
    return np.asarray(values, dtype=np.float32)


def int_array(values: Sequence[int] | Array) -> Array:
    """int64 array, the dtype of every token id."""
    return np.asarray(values, dtype=np.int64)
