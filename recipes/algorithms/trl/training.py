"""Drives one of TRL's trainers: tells what it logs while it trains, asks it to save, measure and stop, keeps its checkpoints.

A checkpoint of TRL is moved whole to checkpoints/<name>/state; what is half written when it is killed stands nowhere.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import torch
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from recipes.algorithms.trl.base import TRLRun
from recipes.algorithms.trl.metric_names import MetricNames
from recipes.algorithms.trl.model import OpenModel
from recipes.algorithms.trl.processes import num_processes, rank
from recipes.algorithms.trl.settings import MixedPrecision
from recipes.backends.local import storage
from recipes.backends.local.loading import is_out_of_memory
from recipes.callbacks import Dispatch
from recipes.checkpoints import FINAL, Cursor, Manifest
from recipes.errors import BackendError, ConfigError
from recipes.loop import LOSS_IS_NO_NUMBER, Plan, StoppedNow
from recipes.types import Checkpoint, LoopState, Metrics, StopRequest

WORK_FOLDER = "trl"
"""Of the run directory: where TRL writes before its checkpoints are moved."""


class OwnTrainer:
    """Mixed in before a trainer of TRL: the step size of every step is the run's, and nothing is told to anybody else."""

    plan: Plan
    start_epoch: int
    optimizer: Any
    lr_scheduler: Any
    _tag_names: ClassVar[list[str]] = []

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Multiplies the optimizer's learning rate, which is 1, by that of each step."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self._rate_at)
        return self.lr_scheduler

    def _rate_at(self, step_index: int) -> float:
        return self.plan.adam_at(min(step_index, self.plan.num_steps - 1)).learning_rate

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """A checkpoint of ours is described by its run."""

    def _send_telemetry(self) -> None:
        """What people train on their own machine is nobody else's business."""


def on_one_gpu(config: Any) -> Any:
    """The trainer's config, on the first GPU where this process sees several; TRL refuses to spread one process over them."""
    if config.n_gpu > 1:
        config._n_gpu = 1
    return config


class TrainerDrive:
    """Takes the steps of a run by a trainer. `metrics` holds the last value of every key."""

    def __init__(
        self,
        algorithm: TRLRun,
        opened: OpenModel,
        *,
        state: LoopState,
        dispatch: Dispatch,
        manifest: Manifest,
        plan: Plan,
        names: MetricNames,
    ) -> None:
        self.metrics: Metrics = {}
        self._algorithm, self._opened, self._plan, self._names = algorithm, opened, plan, names
        self._state, self._dispatch, self._manifest = state, dispatch, manifest
        self._trainer: Any = None
        self._saved: set[int] = set()
        self._weights_are_of_step = True
        self._loss_was_finite = True
        self._tokens_before = self._tokens_total = 0
        self._clock = perf_counter()

    async def run(self, resume_from: Cursor | None = None) -> None:
        """Train to the end, or until asked to stop. Blocks: nothing else runs in this event loop.

        Raises StoppedNow at a second stop request, BackendError when memory runs out, and whatever TRL raises.
        """
        if self._state.step >= self._plan.num_steps:
            return
        self._tokens_total = resume_from.tokens_total if resume_from else 0
        self._tokens_before = 0 if self._names.counts_on else self._tokens_total
        if rank() == 0:
            shutil.rmtree(self._work_folder, ignore_errors=True)  # of a process that was killed while TRL saved
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._trainer = self._algorithm.trainer(self._opened, self._plan, self._arguments())
            self._trainer.plan = self._plan
            self._trainer.start_epoch = self._state.step // self._plan.steps_per_epoch
            self._trainer.remove_callback(PrinterCallback)
            self._trainer.add_callback(_Reports(self))
            self._clock = perf_counter()
            self._trainer.train(resume_from_checkpoint=str(self._opened.resume_from) if self._opened.resume_from else None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise BackendError(
                "Out of memory. Set rows_at_once, or lower it; lower max_seq_len; turn on gradient_checkpointing; or use bf16.",
                permanent=True,
            ) from error
        finally:
            if rank() == 0:
                shutil.rmtree(self._work_folder, ignore_errors=True)

    async def save_what_can_be_saved(self) -> str:
        """After a failure: checkpoint the last completed step, if the weights still are that step's. Says what came of it."""
        step = self._state.step
        if step == self._state.start_step or step in self._saved:
            return "Nothing was trained since the last checkpoint."
        if num_processes() > 1:
            return "Nothing more was saved: the other processes are not there to help."
        if not self._weights_are_of_step:
            return "The weights were not saved: the failure came before the update was complete and recorded."
        self._trainer._save_checkpoint(self._trainer.model, None)
        self.keep(step)
        return f"Step {step} was saved and can be resumed from."

    # what TRL's callback calls

    def begin(self) -> None:
        """A stop at once is seen between passes: what is under way in one cannot be abandoned."""
        if self._state.stop_requested is StopRequest.NOW:
            raise StoppedNow

    def begin_update(self) -> None:
        self.begin()
        self._weights_are_of_step = False

    def tell_step(self, step: int, logged: dict[str, Any]) -> None:
        """`step` updates are done, and this is what TRL logs of the last."""
        metrics = self._names.of_step(logged)
        if not metrics or step <= self._state.step:
            return
        seconds = perf_counter() - self._clock
        tokens, self._tokens_total = self._tokens_total, self._tokens_before + int(metrics.get("tokens/total", 0))
        metrics |= {
            "progress/done": step / self._plan.num_steps,
            "tokens/total": float(self._tokens_total),
            "tokens/per_second": (self._tokens_total - tokens) / max(seconds, 1e-9),
            "time/step": seconds,
        }
        self._state.step = step
        self._weights_are_of_step = True
        self._warn_of_a_loss_that_is_no_number(metrics)
        self.metrics |= metrics
        self._dispatch.fire("on_step_end", self._state, step, None, metrics)
        self._clock = perf_counter()

    def tell_eval(self, logged: dict[str, Any]) -> None:
        metrics = self._names.of_eval(logged)
        self.metrics |= metrics
        self._dispatch.fire("on_eval", self._state, self._state.step, "validation", metrics)
        self._clock = perf_counter()

    def obey(self, control: Any, *, measured: bool) -> None:
        """What is due after this step, as TRL's flags. It measures before it saves. measured: it has just done so."""
        self.begin()
        self._agree()
        step, last = self._state.step, self._state.step == self._plan.num_steps
        asked = self._state.stop_requested is not StopRequest.NONE
        every = self._algorithm.measure_every
        control.should_training_stop = control.should_training_stop or asked or last
        control.should_save = step not in self._saved and (asked or step in self._plan.save_steps)
        control.should_evaluate = bool(every) and not measured and (last or step % every == 0)

    def keep(self, step: int) -> None:
        """Make a checkpoint of what TRL has just saved: its state, then sampler weights, then the row that makes both count."""
        is_final = step == self._plan.num_steps or self._state.stop_requested is StopRequest.EARLY
        self._trainer.accelerator.wait_for_everyone()  # each has written its random state
        if rank() == 0:
            self._keep(FINAL if is_final else f"step_{step}", step)
        self._trainer.accelerator.wait_for_everyone()
        self._saved.add(step)
        self._clock = perf_counter()

    def _keep(self, name: str, step: int) -> None:
        folder = self._state.output_dir.resolve() / "checkpoints" / storage.checked_name(name)
        with storage.new_folder(folder / "state") as partial:
            written = self._work_folder / f"checkpoint-{step}"
            for path in written.iterdir():
                path.rename(partial / path.name)
            written.rmdir()
        self._opened.save_for_sampler(folder / "sampler")
        cursor = self._plan.cursor()
        cursor.next_step_index = step
        cursor.epoch, cursor.batch_in_epoch = divmod(step, self._plan.steps_per_epoch)
        cursor.tokens_total = self._tokens_total
        checkpoint = Checkpoint(
            name, step, str(folder / "state"), str(folder / "sampler"), cursor=cursor.model_dump(), metrics=dict(self.metrics)
        )
        self._manifest.append(checkpoint)
        self._dispatch.fire("on_checkpoint", self._state, checkpoint)

    def _agree(self) -> None:
        """Only the first process is told of a stop: the others take over what it knows, so that all end after the same step."""
        if num_processes() > 1:
            asked = [str(self._state.stop_requested)]
            broadcast_object_list(asked)
            self._state.stop_requested = StopRequest(asked[0])

    # what TRL is told

    @property
    def _work_folder(self) -> Path:
        return self._state.output_dir.resolve() / WORK_FOLDER

    def _arguments(self) -> dict[str, Any]:
        """Of any trainer's config. No tracker, no file but the checkpoints asked for, every step logged as it is."""
        cfg = self._algorithm.cfg
        share = cfg.rows_per_step // num_processes()
        at_once = cfg.rows_at_once or share
        if share * num_processes() != cfg.rows_per_step or share % at_once:
            raise ConfigError(
                f"The {cfg.rows_per_step:,} rows of a step cannot be shared by {num_processes()} processes that compute"
                f" {at_once:,} at once. Choose another batch_size or rows_at_once.",
                path=("algorithm", "params", "batch_size"),
            )
        use_cpu = self._opened.device.type == "cpu"
        return {
            "output_dir": str(self._work_folder),
            "per_device_train_batch_size": at_once,
            "per_device_eval_batch_size": at_once,
            "gradient_accumulation_steps": share // at_once,
            "max_steps": self._plan.num_steps,
            "optim": "adamw_torch",
            "learning_rate": 1.0,
            "adam_beta1": cfg.adam_beta1,
            "adam_beta2": cfg.adam_beta2,
            "adam_epsilon": cfg.adam_eps,
            "weight_decay": cfg.weight_decay,
            "max_grad_norm": cfg.grad_clip_norm,
            "seed": cfg.seed,
            "bf16": cfg.precision is MixedPrecision.BF16,
            "fp16": cfg.precision is MixedPrecision.FP16,
            "use_cpu": use_cpu,
            "dataloader_pin_memory": not use_cpu,
            "gradient_checkpointing": cfg.gradient_checkpointing,
            "logging_strategy": "steps",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }

    def _warn_of_a_loss_that_is_no_number(self, metrics: Metrics) -> None:
        finite = math.isfinite(metrics.get("train/loss", 0.0))
        if self._loss_was_finite and not finite:
            self._dispatch.event(
                "warning",
                f"{LOSS_IS_NO_NUMBER} at step {self._state.step}. Lower the learning rate, or set grad_clip_norm,"
                " and start from an earlier checkpoint.",
            )
        self._loss_was_finite = finite


class _Reports(TrainerCallback):
    """TRL's side of the drive. What it logs arrives after a step and before it looks whether to measure, save or stop."""

    def __init__(self, drive: TrainerDrive) -> None:
        self._drive = drive

    def on_step_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._drive.begin()

    def on_substep_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._drive.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._drive.begin_update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **named: Any) -> Any:
        logged = dict(logs or {})
        measured = any(name.startswith("eval_") for name in logged)
        if measured:
            self._drive.tell_eval(logged)
        else:
            self._drive.tell_step(state.global_step, logged)
        self._drive.obey(control, measured=measured)
        return control

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._drive.keep(state.global_step)
