"""The training loop: one step in order, for any algorithm on any backend.

build the batch → submit forward_backward and optim_step, both before either is awaited → await both → one row of metrics →
on_step_end → checkpoint if due → evaluators if due, on one shared snapshot → stop if asked.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from time import perf_counter
from typing import NamedTuple, TypeVar

from recipes.callbacks import Dispatch
from recipes.checkpoints import FINAL, Cursor, Manifest
from recipes.errors import BackendError
from recipes.protocols import Backend, Evaluator, ExpiringBackend, SamplingClient, StepBuilder
from recipes.types import (
    AdamParams,
    Checkpoint,
    Datum,
    ForwardBackwardResult,
    LoopState,
    Metrics,
    OptimStepResult,
    StopRequest,
    TrainingBatch,
)

ResultT = TypeVar("ResultT")

STOP_POLL_SECONDS = 0.05
"""How soon a second stop request is seen while a step is still being computed."""
LOSS_IS_NO_NUMBER = "The loss is no number any more"
"""How the warning begins; whoever watches for it looks for these words."""


class StoppedNow(Exception):
    """A stop was asked for twice: what was being awaited is abandoned."""


class Plan(NamedTuple):
    """What is decided before the first step. `save_steps`: steps, from 1, after which a checkpoint is due; the last is `final`.
    `adam_at(step_index)`: the optimizer's settings of each step. `cursor()`: what to resume with, but for the loop's own part."""

    num_steps: int
    steps_per_epoch: int
    save_steps: frozenset[int]
    adam_at: Callable[[int], AdamParams]
    cursor: Callable[[], Cursor]


class TrainingLoop:
    """Drives a StepBuilder until `plan.num_steps`, or until asked to stop. `metrics` holds the last value of every key,
    `checkpoints` the rows it saved."""

    def __init__(
        self,
        *,
        backend: Backend,
        builder: StepBuilder,
        state: LoopState,
        dispatch: Dispatch,
        manifest: Manifest,
        plan: Plan,
        evaluators: Sequence[Evaluator] = (),
    ) -> None:
        self.metrics: Metrics = {}
        self.checkpoints: list[Checkpoint] = []
        self._backend = backend
        self._builder = builder
        self._state = state
        self._dispatch = dispatch
        self._manifest = manifest
        self._plan = plan
        self._evaluators = [evaluator for evaluator in evaluators if evaluator.run_every > 0]
        self._tokens_total = 0
        self._tokens_trained = 0
        self._weights_are_of_step = True
        self._loss_was_finite = True

    async def run(self, resume_from: Cursor | None = None) -> None:
        """Train. Raises StoppedNow at a second stop request, and whatever a part of the step raises.

        A stop after a step saves `step_<n>`; the last step, and one that ends the run early, is saved once, as `final`.
        """
        if resume_from is not None:
            self._tokens_total, self._tokens_trained = resume_from.tokens_total, resume_from.tokens_trained
        for step_index in range(self._state.step, self._plan.num_steps):
            if self._asked() is not StopRequest.NONE:
                return
            await self._step(step_index)
            await self._save_if_due()
            await self._evaluate_if_due()
            if self._asked() is StopRequest.NOW:
                raise StoppedNow
            await self._save_if_due()  # a stop asked for by an evaluator comes after this step's save

    async def save_what_can_be_saved(self) -> str:
        """After a failure: checkpoint the last completed step, if the weights still are that step's. Says what came of it."""
        step = self._state.step
        if step == self._state.start_step or any(checkpoint.step == step for checkpoint in self.checkpoints):
            return "Nothing was trained since the last checkpoint."
        if not self._weights_are_of_step:
            return "The weights were not saved: the failure came before the update was complete and recorded."
        await self._save(f"step_{step}")
        return f"Step {step} was saved and can be resumed from."

    async def interruptible(self, work: Awaitable[ResultT]) -> ResultT:
        """Await, but give up within STOP_POLL_SECONDS of a second stop request. Raises StoppedNow."""
        return await interruptible(work, self._state)

    async def _step(self, step_index: int) -> None:
        started = perf_counter()
        batch = await self.interruptible(self._builder.build_batch(step_index))
        if batch.rollouts:
            self._dispatch.fire("on_rollout", self._state, step_index + 1, batch.rollouts)
        adam = self._plan.adam_at(step_index)
        trained: Metrics = {}
        if batch.data:
            forward_backward, optim_step = await self._update(batch, adam)
            trained = {"train/loss": forward_backward.metrics["loss:sum"]} if "loss:sum" in forward_backward.metrics else {}
            trained |= self._builder.step_metrics(step_index, batch, forward_backward)
            trained |= optim_step.metrics
        else:
            trained = {"train/skipped_empty_batch": 1.0}
        self._state.step = step_index + 1
        self._weights_are_of_step = True
        metrics = self._loop_metrics(batch, adam, perf_counter() - started) | trained | batch.metrics
        self._warn_of_a_loss_that_is_no_number(metrics)
        self.metrics |= metrics
        self._dispatch.fire("on_step_end", self._state, self._state.step, batch, metrics)

    async def _update(self, batch: TrainingBatch, adam: AdamParams) -> tuple[ForwardBackwardResult, OptimStepResult]:
        if isinstance(batch.loss_fn, str):
            first = self._backend.forward_backward_async(batch.data, loss_fn=batch.loss_fn, loss_fn_config=batch.loss_fn_config)
        else:
            first = self._backend.forward_backward_custom_async(batch.data, batch.loss_fn)
        gradient = asyncio.ensure_future(first)
        update = asyncio.ensure_future(self._backend.optim_step_async(adam))
        self._weights_are_of_step = False
        try:
            return await self.interruptible(gradient), await self.interruptible(update)
        except StoppedNow:
            gradient.cancel()
            update.cancel()
            raise
        except Exception:
            # A backend refuses an update without a gradient, so a failed forward pass leaves the weights of the last step.
            outcome = (await asyncio.gather(update, return_exceptions=True))[0]
            self._weights_are_of_step = isinstance(outcome, BaseException)
            raise

    def _loop_metrics(self, batch: TrainingBatch, adam: AdamParams, seconds: float) -> Metrics:
        tokens = sum(datum.num_tokens for datum in batch.data)
        self._tokens_total += tokens
        self._tokens_trained += sum(map(num_trained, batch.data))
        step = self._state.step
        return {
            "progress/done": step / self._plan.num_steps,
            "progress/epoch": step / self._plan.steps_per_epoch,
            "optim/lr": adam.learning_rate,
            "tokens/total": float(self._tokens_total),
            "tokens/trained": float(self._tokens_trained),
            "tokens/per_second": tokens / max(seconds, 1e-9),
            "time/step": seconds,
        }

    def _warn_of_a_loss_that_is_no_number(self, metrics: Metrics) -> None:
        losses = [metrics[key] for key in ("train/loss", "train/mean_nll") if key in metrics]
        finite = all(map(math.isfinite, losses))
        if self._loss_was_finite and not finite:
            self._dispatch.event(
                "warning",
                f"{LOSS_IS_NO_NUMBER} at step {self._state.step}. Lower the learning rate, or set grad_clip_norm,"
                " and start from an earlier checkpoint.",
            )
        self._loss_was_finite = finite

    def _asked(self) -> StopRequest:
        return self._state.stop_requested  # another thread may change it at any time

    async def _save_if_due(self) -> None:
        step, asked = self._state.step, self._asked()
        saved_here = {checkpoint.name for checkpoint in self.checkpoints if checkpoint.step == step}
        if step == self._plan.num_steps or asked is StopRequest.EARLY:
            if FINAL not in saved_here:
                await self._save(FINAL)
        elif not saved_here and (step in self._plan.save_steps or asked is StopRequest.AFTER_STEP):
            await self._save(f"step_{step}")

    async def _save(self, name: str) -> None:
        """State, then sampler weights, then the row that makes both count."""
        state_path = await self.interruptible(self._backend.save_full_state(name))
        sampler_path = await self.interruptible(self._backend.save_for_sampler(name))
        cursor = self._plan.cursor()
        cursor.next_step_index = self._state.step
        cursor.epoch, cursor.batch_in_epoch = divmod(self._state.step, self._plan.steps_per_epoch)
        cursor.tokens_total, cursor.tokens_trained = self._tokens_total, self._tokens_trained
        checkpoint = Checkpoint(
            name,
            self._state.step,
            state_path,
            sampler_path,
            cursor=cursor.model_dump(),
            metrics=dict(self.metrics),
            expires_at=await self._expiry(name, [state_path, sampler_path]),
        )
        self._manifest.append(checkpoint)
        self.checkpoints.append(checkpoint)
        self._dispatch.fire("on_checkpoint", self._state, checkpoint)

    async def _expiry(self, name: str, uris: Sequence[str]) -> datetime | None:
        """Weights that are saved count, also when nobody says for how long."""
        if not isinstance(self._backend, ExpiringBackend):
            return None
        try:
            return await self.interruptible(self._backend.expiry_of(uris))
        except BackendError as error:
            self._dispatch.event("warning", f"It is not known for how long the checkpoint {name} is kept: {error}")
            return None

    async def _evaluate_if_due(self) -> None:
        step = self._state.step
        last = step == self._plan.num_steps
        due = [evaluator for evaluator in self._evaluators if last or step % evaluator.run_every == 0]
        snapshot: SamplingClient | None = None
        for evaluator in due:
            try:
                if evaluator.needs_sampler and snapshot is None:
                    snapshot = await self.interruptible(self._backend.snapshot_sampling_client(f"eval_{step}"))
                sampler = snapshot if evaluator.needs_sampler else None
                found = await self.interruptible(evaluator.evaluate(self._backend, sampler, step=step))
            except StoppedNow:
                raise
            except Exception as error:  # noqa: BLE001 - somebody's evaluator must not end the training it measures
                self._dispatch.event(
                    "error", f"The evaluator {evaluator.name} failed at step {step}: {type(error).__name__}: {error}"
                )
                continue
            metrics = {key: float(value) for key, value in found.items()}
            self.metrics |= metrics
            self._dispatch.fire("on_eval", self._state, step, evaluator.name, metrics)


async def interruptible(work: Awaitable[ResultT], state: LoopState) -> ResultT:
    """Await `work`, looking up between whiles for a stop at once. Raises StoppedNow."""
    task = asyncio.ensure_future(work)
    while not task.done():
        if state.stop_requested is StopRequest.NOW:
            task.cancel()
            raise StoppedNow
        await asyncio.wait({task}, timeout=STOP_POLL_SECONDS)
    return task.result()


async def until_stopped(work: Awaitable[ResultT], state: LoopState) -> ResultT:
    """Await what comes before the first step, which no stop has to wait for; what it has begun, it ends before this returns.
    Raises StoppedNow."""
    task = asyncio.ensure_future(work)
    while not task.done():
        is_asked = state.stop_requested in (StopRequest.AFTER_STEP, StopRequest.NOW)
        if is_asked:
            task.cancel()
        await asyncio.wait({task}, timeout=None if is_asked else STOP_POLL_SECONDS)
    if task.cancelled():
        raise StoppedNow
    return task.result()


def num_trained(datum: Datum) -> int:
    """Positions with a weight, or an advantage; all of them for a loss that has neither."""
    weights = datum.loss_fn_inputs.get("weights", datum.loss_fn_inputs.get("advantages"))
    if weights is None:
        return datum.num_tokens
    return int((weights != 0).reshape(datum.num_tokens, -1).any(axis=1).sum())
