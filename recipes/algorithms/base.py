"""What every step-driven algorithm shares: one whole run around the training loop.

An algorithm brings `setup`, `build_batch` and, if it measures something, `step_metrics`; the loss travels on the batch. To vary
an algorithm, subclass it and override one of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast

import numpy as np
from pydantic import BaseModel, ValidationError

from recipes.callbacks import METRICS_FILE, Dispatch, MetricsFile, ToLogStore
from recipes.checkpoints import Cursor, Manifest, fingerprint_of, refuse_change
from recipes.config import BaseAlgorithmConfig, sentences
from recipes.effects import without_effect
from recipes.errors import CheckpointError, ConfigError, RecipeError
from recipes.loop import Plan, StoppedNow, TrainingLoop, interruptible, until_stopped
from recipes.protocols import Backend, Callback, Evaluator
from recipes.registry import backends, callbacks
from recipes.rows import RowFormat
from recipes.schedules import adam_at
from recipes.types import (
    Checkpoint,
    ForwardBackwardResult,
    Headline,
    LoopState,
    Metrics,
    Row,
    RunContext,
    RunResult,
    StopRequest,
    TrainingBatch,
)

log = logging.getLogger(__name__)


class Drive(Protocol):
    """What takes the steps of a run: the training loop, or another program's trainer (see `recipes.algorithms.trl`).
    `metrics` holds the last value of every key."""

    metrics: Metrics

    async def run(self, resume_from: Cursor | None = None) -> None:
        """See `TrainingLoop.run`."""
        ...

    async def save_what_can_be_saved(self) -> str:
        """See `TrainingLoop.save_what_can_be_saved`."""
        ...


class BaseAlgorithm:
    """Owns `train`; is itself the StepBuilder that the loop drives. `self.cfg` is the Config, `self.rng` a generator seeded
    with the run's seed whose state is part of every checkpoint."""

    name: ClassVar[str] = "base"
    Config: ClassVar[type[BaseModel]] = BaseAlgorithmConfig
    row_format: ClassVar[RowFormat | None] = None
    """What its rows must be, so that others are refused before a run waits in the queue; None: it says so itself."""

    headline: ClassVar[Headline] = Headline("train/loss", "Loss")
    """What lists and headers show of its runs."""

    needs_backend: ClassVar[bool] = True
    """False: it trains by itself, so that no backend is chosen for it and none is part of what it was made of."""

    own_backend: ClassVar[str | None] = None
    """The kind of backend that it trains on whatever is chosen."""

    ignored_fields: ClassVar[frozenset[str]] = frozenset()
    """Settings of its Config that it does not use: form, estimate and log say so."""

    gives_rollouts: ClassVar[bool] = False
    """It samples while it trains: pages offer what was said."""

    writes: bool = True
    """False in a process that only helps with another one's run: callbacks hear nothing from it."""

    def __init__(self, **params: Any) -> None:
        try:
            self.cfg = cast(Any, self.Config(**params))
        except ValidationError as error:
            place = ("algorithm", "params")
            raise ConfigError("; ".join(sentences(error, place)), path=(*place, *error.errors()[0]["loc"])) from None
        self.callbacks: list[Callback] = [callbacks.get(choice.kind)(**choice.params) for choice in self.cfg.callbacks]
        self.rng = np.random.default_rng(self.cfg.seed)
        self._steps_per_epoch = 0
        self._emit: Dispatch | None = None

    # What a recipe overrides.

    @classmethod
    def check_backend(cls, config: Any, backend: type[Backend]) -> None:
        """Refuse, before a run waits in the queue, a backend that cannot do what the algorithm needs. `config`: an instance of
        this class's Config. Raises ConfigError."""

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        """Prepare before the first step. Must set `self._steps_per_epoch`."""
        raise ConfigError(
            f"The algorithm {self.name!r} has no setup, which must set _steps_per_epoch.", path=("algorithm", "kind")
        )

    async def build_batch(self, step_index: int) -> TrainingBatch:
        """The batch of a step, counted from 0."""
        raise ConfigError(f"The algorithm {self.name!r} has no build_batch.", path=("algorithm", "kind"))

    def step_metrics(self, step_index: int, batch: TrainingBatch, fb_result: ForwardBackwardResult) -> Metrics:
        """Metrics computed from what the backend returned, by `area/name`."""
        return {}

    def evaluators(self, ctx: RunContext) -> Sequence[Evaluator]:
        """Called after `setup`."""
        return ()

    def train_rows(self, ctx: RunContext) -> Sequence[Row]:
        """The rows that are trained on, as callbacks are told."""
        rows: Sequence[Row] = ctx.extras.get("train_rows", [])
        return rows

    def cursor(self) -> dict[str, Any]:
        """What the algorithm needs, besides `self.rng`, to go on after a resume; JSON."""
        return {}

    def restore(self, cursor: dict[str, Any]) -> None:
        """Take back what `cursor` gave. Called after `setup`."""

    async def teardown(self) -> None:
        """Give back what `setup` opened, besides the backend. Called once, however the run ended."""

    async def open_backend(self, ctx: RunContext) -> Backend:
        """The backend of the run: the one given, or the one its config names."""
        if ctx.backend is not None:
            return ctx.backend
        backend_class = backends.get(ctx.config.backend.kind)
        opened: Backend = await backend_class.open(
            ctx.config.backend_config(),
            model=ctx.config.model,
            algorithm=self.cfg,
            output_dir=ctx.output_dir,
            secrets=ctx.secrets,
            report=self.report,
        )
        return opened

    def drive(
        self,
        *,
        backend: Backend,
        state: LoopState,
        dispatch: Dispatch,
        manifest: Manifest,
        plan: Plan,
        evaluators: Sequence[Evaluator],
    ) -> Drive:
        """What takes the steps: the loop, over this algorithm as its step builder."""
        return TrainingLoop(
            backend=backend,
            builder=self,
            state=state,
            dispatch=dispatch,
            manifest=manifest,
            plan=plan,
            evaluators=evaluators,
        )

    def report(self, level: str, message: str) -> None:
        """An event on the run, from within `setup` or a step."""
        if self._emit is not None:
            self._emit.event(level, message)

    def readable_length(self, tokenizer: Any, backend: Backend, max_seq_len: int) -> int:
        """`max_seq_len`, or what the model can read at once where that is less; the run's reader is told."""
        known = (getattr(tokenizer, "model_max_length", None), getattr(backend, "max_positions", None))
        readable = min((int(limit) for limit in known if limit), default=max_seq_len)
        if readable < max_seq_len:
            self.report("info", f"The model reads {readable:,} tokens at most, less than max_seq_len {max_seq_len:,}.")
        return min(readable, max_seq_len)

    # The run around them.

    def train(self, ctx: RunContext) -> RunResult:
        """One whole run, in an event loop of its own. Foreseen failures (RecipeError) end as status failed; others are recorded
        and raised again."""
        with ThreadPoolExecutor(max_workers=1) if _in_event_loop() else nullcontext() as other_thread:
            if other_thread is None:
                return asyncio.run(_Run(self, ctx).execute())
            return other_thread.submit(lambda: asyncio.run(_Run(self, ctx).execute())).result()

    def plan(self, fingerprint: dict[str, Any]) -> Plan:
        """What `setup` has decided. Raises ConfigError when it left `_steps_per_epoch` unset."""
        if self._steps_per_epoch < 1:
            raise ConfigError(f"setup of the algorithm {self.name!r} did not set _steps_per_epoch.", path=("algorithm", "kind"))
        num_steps = self.cfg.total_steps(self._steps_per_epoch)

        def cursor() -> Cursor:
            return Cursor(
                next_step_index=0,
                seed=self.cfg.seed,
                rng=dict(self.rng.bit_generator.state),
                algorithm=self.cursor(),
                fingerprint=fingerprint,
            )

        return Plan(
            num_steps=num_steps,
            steps_per_epoch=self._steps_per_epoch,
            save_steps=frozenset(self.cfg.save_steps(num_steps)),
            adam_at=lambda step_index: adam_at(step_index, self.cfg, num_steps),
            cursor=cursor,
        )


def _in_event_loop() -> bool:
    """True in a notebook, whose cells run inside an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Ending(NamedTuple):
    status: Literal["completed", "failed", "cancelled"]
    error: str | None = None
    cause: Exception | None = None


class _Run:
    """One run of an algorithm: opens, resumes, drives the loop, and says how it ended."""

    def __init__(self, algorithm: BaseAlgorithm, ctx: RunContext) -> None:
        self.algorithm = algorithm
        self.ctx = ctx
        self.state = LoopState(run_id=ctx.run_id, num_steps=0, output_dir=ctx.output_dir, ctx=ctx)
        self.dispatch = Dispatch(self._callbacks(), self.state)
        self.manifest = Manifest(ctx.output_dir)
        self.loop: Drive | None = None

    async def execute(self) -> RunResult:
        self.algorithm._emit = self.dispatch
        try:
            return await self._train_and_tell()
        finally:
            await self._close()  # after callbacks were told: a step that was abandoned may take its time to end

    async def _train_and_tell(self) -> RunResult:
        try:
            self.ctx.output_dir.mkdir(parents=True, exist_ok=True)
            await self._prepare_and_train()
            ending = self._ending()
        except StoppedNow:
            ending = _Ending("cancelled")
        except Exception as error:  # noqa: BLE001 - recorded here, raised again below unless it is a RecipeError
            ending = await self._failed(error)
        result = self._result(ending)
        self.dispatch.report_failures()
        self.dispatch.fire("on_train_end", self.state, result)
        if ending.cause is not None and not isinstance(ending.cause, RecipeError):
            raise ending.cause
        return result

    async def _prepare_and_train(self) -> None:
        algorithm, ctx, state = self.algorithm, self.ctx, self.state
        cursor = self._resume_cursor()
        self.dispatch.event("info", f"Preparing {algorithm.name} of {ctx.config.model.name}.")
        state.backend = await until_stopped(algorithm.open_backend(ctx), state)
        await interruptible(algorithm.setup(ctx, state.backend), state)
        plan = algorithm.plan(self._fingerprint)
        state.num_steps = plan.num_steps
        if cursor is not None:
            await self._resume(cursor, state.backend)
        self.loop = algorithm.drive(
            backend=state.backend,
            state=state,
            dispatch=self.dispatch,
            manifest=self.manifest,
            plan=plan,
            evaluators=algorithm.evaluators(ctx),
        )
        self._warn_of_ignored_settings()
        self.dispatch.fire("on_train_data", ctx, algorithm.train_rows(ctx))
        self.dispatch.fire("on_train_start", state)
        await self.loop.run(resume_from=cursor)

    def _resume_cursor(self) -> Cursor | None:
        """Checked before anything is opened that may cost."""
        checkpoint = self.ctx.resume_from
        if checkpoint is None:
            return None
        if not checkpoint.state_path:
            raise CheckpointError(f"The checkpoint {checkpoint.name} holds no state to resume from, only weights to sample from.")
        cursor = Cursor.of(checkpoint)
        refuse_change(cursor.fingerprint, self._fingerprint, checkpoint)
        return cursor

    async def _resume(self, cursor: Cursor, backend: Backend) -> None:
        checkpoint = self.ctx.resume_from
        assert checkpoint is not None and checkpoint.state_path is not None
        await interruptible(backend.load_full_state(checkpoint.state_path), self.state)
        if cursor.rng:
            self.algorithm.rng.bit_generator.state = cursor.rng
        self.algorithm.restore(cursor.algorithm)
        self.manifest.keep_until(checkpoint.step)
        self.state.step = self.state.start_step = checkpoint.step
        self.dispatch.event("info", f"Resumed from checkpoint {checkpoint.name}, after step {checkpoint.step}.")

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        extras = self.ctx.extras
        found = fingerprint_of(self.ctx.config, extras.get("train_rows", []), extras.get("validation_rows"))
        return found if self.algorithm.needs_backend else {part: value for part, value in found.items() if part != "backend"}

    def _callbacks(self) -> list[Callback]:
        ctx = self.ctx
        if not self.algorithm.writes:
            return []
        stores = [ToLogStore(ctx.log_store)] if ctx.log_store is not None else []
        return [MetricsFile(ctx.output_dir / METRICS_FILE), *ctx.callbacks, *stores, *self.algorithm.callbacks]

    def _warn_of_ignored_settings(self) -> None:
        for sentence in without_effect(self.algorithm, self.algorithm.cfg, self.state.backend, self.ctx.config):
            self.dispatch.event("warning", sentence)

    def _ending(self) -> _Ending:
        state = self.state
        if state.step >= state.num_steps:
            return _Ending("completed")
        if state.stop_requested is StopRequest.EARLY:
            self.dispatch.event("info", f"Ended early, after {state.step} of {state.num_steps} steps: no more improvement.")
            return _Ending("completed")
        return _Ending("cancelled")

    async def _failed(self, error: Exception) -> _Ending:
        """Record the failure, save what can be saved."""
        state = self.state
        place = f" after step {state.step} of {state.num_steps}" if state.num_steps else " before the first step"
        sentence = str(error) if isinstance(error, RecipeError) else f"{type(error).__name__}: {error}"
        log.warning("run %s failed%s", self.ctx.run_id, place, exc_info=None if isinstance(error, RecipeError) else error)
        self.dispatch.event("error", f"Failed{place}: {sentence}")
        if self.loop is not None:
            try:
                self.dispatch.event("info", await self.loop.save_what_can_be_saved())
            except StoppedNow:
                self.dispatch.event("info", "A stop was asked for, so nothing more was saved.")
            except Exception as failure:  # noqa: BLE001 - the first failure is the one to report
                self.dispatch.event("warning", f"The weights could not be saved either: {failure}")
        return _Ending("failed", sentence, error)

    def _result(self, ending: _Ending) -> RunResult:
        artifacts = {"run_dir": str(self.ctx.output_dir)}
        for checkpoint in self._listed():
            if checkpoint.sampler_path:
                artifacts[f"checkpoint-{checkpoint.name}"] = checkpoint.sampler_path
            if checkpoint.state_path:
                artifacts[f"state-{checkpoint.name}"] = checkpoint.state_path
        return RunResult(
            run_id=self.ctx.run_id,
            status=ending.status,
            metrics=dict(self.loop.metrics) if self.loop else {},
            artifacts=artifacts,
            error=ending.error,
            steps=self.state.step,
            num_steps=self.state.num_steps,
        )

    def _listed(self) -> list[Checkpoint]:
        try:
            return self.manifest.read()
        except CheckpointError:  # told already: it is why this run failed
            return []

    async def _close(self) -> None:
        """Only a backend that was opened here is closed here."""
        opened_here = self.state.backend is not None and self.state.backend is not self.ctx.backend
        for close in (self.algorithm.teardown, *((self.state.backend.close,) if opened_here and self.state.backend else ())):
            try:
                await close()
            except Exception as error:  # noqa: BLE001 - the run has ended and is recorded
                log.warning("closing what the run had opened failed", exc_info=error)
