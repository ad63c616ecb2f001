"""A backend that is small but real: a bigram model of bytes in numpy, trained by Adam. Deterministic, instant, no torch.

Logits of the next token are one row of a table, chosen by the token before. It learns, samples, saves and resumes as the
Backend protocol says, so that loops, dashboards and tests can be tried where nothing is installed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar, TypeVar

import numpy as np
from pydantic import BaseModel

from recipes import losses
from recipes.backends.byte_tokenizer import VOCAB_SIZE, ByteTokenizer
from recipes.config import BaseAlgorithmConfig, ModelConfig, Settings, knob
from recipes.errors import BackendError, CheckpointError, ConfigError
from recipes.registry import register_backend
from recipes.types import (
    AdamParams,
    Array,
    Datum,
    ForwardBackwardResult,
    LossCallable,
    ModelOutput,
    OptimStepResult,
    SampledSequence,
    SampleResult,
    SamplingParams,
    StopReason,
)

ResultT = TypeVar("ResultT")
STATE_FILE = "state.npz"
WEIGHTS_FILE = "weights.npz"


class MockConfig(Settings):
    step_seconds: float = knob(0.0, "Pretend that each forward and backward pass takes this long.", unit="seconds", ge=0, le=60)


@register_backend("mock")
class MockBackend:
    """All work runs, in the order submitted, in one thread."""

    name: ClassVar[str] = "mock"
    summary: ClassVar[str] = "A small table in place of a model, for tours and tests; needs no machine to speak of."
    Config: ClassVar[type[BaseModel]] = MockConfig
    ignored_fields: ClassVar[frozenset[str]] = frozenset({"lora_rank", "renderer_name", "enable_thinking"})
    computes_here: ClassVar[bool] = True
    gives_topk_prompt_logprobs: ClassVar[bool] = True

    def __init__(self, *, output_dir: Path, seed: int = 0, step_seconds: float = 0.0) -> None:
        shape = (VOCAB_SIZE, VOCAB_SIZE)
        self._table = np.random.default_rng(seed).normal(0, 0.01, shape)
        self._base = self._table.copy()
        self._gradient: Array | None = None
        self._lost_gradient: str | None = None
        self._moments = np.zeros((2, *shape))
        self._num_updates = 0
        self._folder = output_dir / "checkpoints"
        self._step_seconds = step_seconds
        self._closing = threading.Event()
        self._tokenizer = ByteTokenizer()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mock-backend")

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
    ) -> MockBackend:
        """The model's name means nothing here; `init_from_checkpoint` is a folder that `save_for_sampler` gave."""
        settings = MockConfig.model_validate(config.model_dump())
        backend = cls(output_dir=output_dir, seed=algorithm.seed, step_seconds=settings.step_seconds)
        if model.init_from_checkpoint:
            backend._table = _read(Path(model.init_from_checkpoint) / WEIGHTS_FILE)["table"]
        return backend

    def forward_backward_async(
        self, data: Sequence[Datum], *, loss_fn: str, loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        return self._submit(lambda: self._accumulate(data, loss_fn, loss_fn_config))

    def forward_backward_custom_async(self, data: Sequence[Datum], loss_fn: LossCallable) -> Awaitable[ForwardBackwardResult]:
        return self._submit(lambda: self._accumulate(data, loss_fn))

    def forward_async(
        self, data: Sequence[Datum], *, loss_fn: str = "cross_entropy", loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        return self._submit(lambda: self._pass(data, loss_fn, loss_fn_config, np.zeros_like(self._table)))

    def optim_step_async(self, adam: AdamParams) -> Awaitable[OptimStepResult]:
        return self._submit(lambda: self._update(adam))

    async def save_for_sampler(self, name: str) -> str:
        return await self._submit(lambda: _write(self._folder / name / "sampler", WEIGHTS_FILE, table=self._table))

    async def save_full_state(self, name: str) -> str:
        def save() -> str:
            arrays = {"table": self._table, "moments": self._moments, "num_updates": np.array(self._num_updates)}
            return _write(self._folder / name / "state", STATE_FILE, **arrays)

        return await self._submit(save)

    async def load_full_state(self, uri: str) -> None:
        def load() -> None:
            arrays = _read(Path(uri) / STATE_FILE)
            self._table, self._moments = arrays["table"], arrays["moments"]
            self._num_updates = int(arrays["num_updates"])
            self._gradient = self._lost_gradient = None

        await self._submit(load)

    async def snapshot_sampling_client(self, name: str | None = None) -> MockSampler:
        return MockSampler(await self._submit(self._table.copy), self._tokenizer)

    async def reference_sampling_client(self) -> MockSampler:
        return MockSampler(self._base, self._tokenizer)

    def get_tokenizer(self) -> ByteTokenizer:
        return self._tokenizer

    async def close(self) -> None:
        self._closing.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[[], ResultT]) -> Awaitable[ResultT]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _accumulate(
        self, data: Sequence[Datum], loss_fn: str | LossCallable, config: Mapping[str, Any] | None = None
    ) -> ForwardBackwardResult:
        """If anything fails, all that has accumulated is dropped, and the next update refuses."""
        gradient = np.zeros_like(self._table)
        try:
            result = self._pass(data, loss_fn, config, gradient)
        except BaseException as error:
            self._gradient, self._lost_gradient = None, str(error) or type(error).__name__
            raise
        self._gradient = gradient if self._gradient is None else self._gradient + gradient
        return result

    def _pass(
        self, data: Sequence[Datum], loss_fn: str | LossCallable, config: Mapping[str, Any] | None, gradient: Array
    ) -> ForwardBackwardResult:
        loss = losses.get(loss_fn) if isinstance(loss_fn, str) else None
        settings = losses.settings_of(loss, config) if loss else {}
        losses.check(data, loss, vocab_size=VOCAB_SIZE)
        if self._step_seconds:
            self._closing.wait(self._step_seconds)
        total, outputs = 0.0, []
        for datum in data:
            logprobs = _log_softmax(self._table[datum.model_input])
            targets = datum.loss_fn_inputs["target_tokens"].reshape(datum.num_tokens, -1)
            picked = np.take_along_axis(logprobs, targets, axis=1)
            shaped = picked.reshape(datum.loss_fn_inputs["target_tokens"].shape)
            value, slope = _loss_and_slope(loss_fn, settings, shaped, datum.loss_fn_inputs)
            total += value
            outputs.append({"logprobs": shaped.astype(np.float32)})
            _add_gradient(gradient, datum.model_input, targets, slope.reshape(targets.shape), np.exp(logprobs))
        return ForwardBackwardResult(loss_fn_outputs=outputs, metrics={"loss:sum": total})

    def _update(self, adam: AdamParams) -> OptimStepResult:
        if self._lost_gradient is not None:
            reason, self._lost_gradient = self._lost_gradient, None
            raise BackendError(f"The step was not taken, because its gradient failed: {reason}", permanent=True)
        if self._gradient is None:
            return OptimStepResult(metrics={"optim/grad_norm": 0.0, "optim/skipped_no_gradient": 1.0})
        gradient, self._gradient = self._gradient, None
        norm = float(np.sqrt((gradient**2).sum()))
        if adam.grad_clip_norm and norm > adam.grad_clip_norm:
            gradient = gradient * (adam.grad_clip_norm / norm)
        self._num_updates += 1
        first = adam.beta1 * self._moments[0] + (1 - adam.beta1) * gradient
        second = adam.beta2 * self._moments[1] + (1 - adam.beta2) * gradient**2
        self._moments = np.stack([first, second])
        direction = first / (1 - adam.beta1**self._num_updates)
        scale = np.sqrt(second / (1 - adam.beta2**self._num_updates)) + adam.eps
        self._table = self._table * (1 - adam.learning_rate * adam.weight_decay) - adam.learning_rate * direction / scale
        return OptimStepResult(metrics={"optim/grad_norm": norm})


class MockSampler:
    """Samples from one copy of the table."""

    def __init__(self, table: Array, tokenizer: ByteTokenizer) -> None:
        self._logprobs = _log_softmax(table)
        self._tokenizer = tokenizer

    async def sample_async(
        self,
        *,
        prompt: Sequence[int],
        params: SamplingParams,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> SampleResult:
        if not len(prompt):
            raise ConfigError("A prompt needs at least one token.", path=("prompt",))
        sequences = [self._sample(prompt[-1], params, number) for number in range(num_samples)]
        return SampleResult(
            sequences,
            prompt_logprobs=await self.compute_logprobs_async(prompt) if include_prompt_logprobs else None,
            topk_prompt_logprobs=self._top(prompt, topk_prompt_logprobs) if topk_prompt_logprobs else None,
        )

    async def compute_logprobs_async(self, prompt: Sequence[int]) -> list[float | None]:
        pairs = zip(prompt[:-1], prompt[1:], strict=True)
        return [None, *(float(self._logprobs[before, after]) for before, after in pairs)]

    def _sample(self, last: int, params: SamplingParams, number: int) -> SampledSequence:
        rng = np.random.default_rng(None if params.seed is None else params.seed + number)
        stops = [stop if isinstance(stop, str) else self._tokenizer.decode([stop]) for stop in params.stop]
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < params.max_tokens:
            scores = self._logprobs[last]
            if params.temperature > 0:
                scores = _log_softmax(scores / params.temperature)
                last = int(rng.choice(VOCAB_SIZE, p=_cut(np.exp(scores), params)))
            else:
                last = int(scores.argmax())
            tokens.append(last)
            logprobs.append(float(scores[last]))
            if last == self._tokenizer.eos_token_id or any(stop in self._tokenizer.decode(tokens) for stop in stops):
                return SampledSequence(tokens, logprobs, StopReason.STOP)
        return SampledSequence(tokens, logprobs, StopReason.LENGTH)

    def _top(self, prompt: Sequence[int], count: int) -> list[list[tuple[int, float]] | None]:
        def best(before: int) -> list[tuple[int, float]]:
            ranked = np.argsort(-self._logprobs[before], kind="stable")[:count]
            return [(int(token_id), float(self._logprobs[before, token_id])) for token_id in ranked]

        return [None, *(best(before) for before in prompt[:-1])]


def _loss_and_slope(
    loss_fn: str | LossCallable, settings: Mapping[str, float], logprobs: Array, inputs: Mapping[str, Array]
) -> tuple[float, Array]:
    """The loss of one datum, and its derivative by each log-probability, of the same shape."""
    if loss_fn == "cross_entropy":
        return -float((inputs["weights"] * logprobs).sum()), -np.asarray(inputs["weights"], dtype=np.float64)
    import torch  # every other formula stands in recipes.losses, over tensors

    tensor = torch.tensor(logprobs, dtype=torch.float32, requires_grad=True)
    tensors = {key: torch.as_tensor(value) for key, value in inputs.items()}
    value: Any
    if isinstance(loss_fn, str):
        value = losses.get(loss_fn).terms(tensor, tensors, settings).sum()
    else:
        value = loss_fn(ModelOutput(logprobs=tensor), tensors)
    value.backward()
    return float(value.detach()), np.zeros_like(logprobs) if tensor.grad is None else tensor.grad.double().numpy()


def _add_gradient(gradient: Array, model_input: Array, targets: Array, slope: Array, probabilities: Array) -> None:
    """d logprob(target) / d logits = onehot(target) − probabilities; slope and targets (N, K), probabilities (N, V)."""
    rows = -slope.sum(axis=1, keepdims=True) * probabilities
    np.add.at(gradient, model_input, rows)
    np.add.at(gradient, (model_input[:, None], targets), slope)


def _log_softmax(logits: Array) -> Array:
    shifted: Array = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _cut(probabilities: Array, params: SamplingParams) -> Array:
    """Only the `top_k` likeliest tokens, and of them the likeliest that together reach `top_p`."""
    ranked = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[ranked]) - probabilities[ranked]
    kept = before < params.top_p
    if params.top_k > 0:
        kept[params.top_k :] = False
    result = np.zeros_like(probabilities)
    result[ranked[kept]] = probabilities[ranked[kept]]
    total: Array = result / result.sum()
    return total


def _write(folder: Path, file_name: str, **arrays: Array) -> str:
    """The folder, once it holds the whole file."""
    draft = folder.with_name(f"{folder.name}.draft")
    rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    np.savez(draft / file_name, **arrays)  # type: ignore[arg-type]
    rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return str(folder)


def _read(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The checkpoint {path.parent} cannot be read: {error}.") from error
