"""Reinforcement learning with verifiable rewards by TRL's GRPOTrainer.

1. Tasks, verifiers and prompts are those of `rl`, in its environment `problem`: one reply, judged by a verifier. TRL samples with
   transformers' `generate`; no server (vLLM) is asked.
2. A reply that could not be judged is no wrong answer: TRL leaves it out of its group's mean, it teaches nothing and is counted.
3. The advantage is that of `rl`, but for a spread that TRL takes as a sample's (n − 1). A group in which all rewards are equal
   stays in the batch with advantage 0.
4. TRL leaves out the last, smaller batch of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, model_validator

from recipes.algorithms.rewarded import RewardedConfig
from recipes.algorithms.rl import judge_of, refuse_doubles, tasks_of
from recipes.algorithms.trl.base import TRLRun
from recipes.algorithms.trl.metric_names import RL_NAMES, MetricNames
from recipes.algorithms.trl.settings import TRLSettings
from recipes.config import knob
from recipes.envs import Judge, with_system
from recipes.errors import DataError, RenderingError
from recipes.loop import Plan
from recipes.protocols import Backend
from recipes.registry import register_algorithm
from recipes.rendering import render_prompt
from recipes.rollout_log import RolloutsFile
from recipes.row_order import split_off
from recipes.rows import RowFormat
from recipes.types import Headline, Row, RunContext, Task

if TYPE_CHECKING:
    from recipes.algorithms.trl.model import OpenModel


class GRPOLoss(StrEnum):
    GRPO = "grpo"
    BNPO = "bnpo"
    DR_GRPO = "dr_grpo"
    DAPO = "dapo"
    CISPO = "cispo"


class LocalRLConfig(TRLSettings, RewardedConfig):
    """Those that rl has for problems, and TRL's."""

    drops_last_batch: ClassVar[bool] = True

    grpo_loss: GRPOLoss = knob(GRPOLoss.DAPO, "TRL's loss_type: how the loss is averaged over tokens, and what is clipped.")
    kl_beta: float = knob(
        0.0, "Weight of the divergence from where the run began; 0 measures none and costs nothing.", ge=0, le=100
    )
    clip_epsilon: float = knob(0.2, "How far the ratio may leave 1 before it is clipped.", gt=0, le=100)

    @model_validator(mode="after")
    def _has_groups(self) -> Self:
        if self.num_samples < 2:
            raise ValueError("num_samples must be at least 2: attempts at a task are compared with each other")
        return self

    @property
    def rows_per_step(self) -> int:
        """Attempts, not tasks, are what a pass computes."""
        return self.batch_size * self.num_samples


class Prompted:
    """A task with the conversation that is asked, as messages and as tokens."""

    __slots__ = ("judge", "messages", "task", "token_ids")

    def __init__(self, task: Task, messages: list[dict[str, Any]], token_ids: list[int], judge: Judge) -> None:
        self.task, self.messages, self.token_ids, self.judge = task, messages, token_ids, judge


@register_algorithm("local_rl")
class LocalRL(TRLRun):
    """Rows are tasks."""

    name: ClassVar[str] = "local_rl"
    summary: ClassVar[str] = "Reinforcement learning by TRL's GRPOTrainer, on this machine: the same tasks and verifiers as rl."
    Config: ClassVar[type[BaseModel]] = LocalRLConfig
    row_format: ClassVar[RowFormat | None] = RowFormat.TASK
    headline: ClassVar[Headline] = Headline("reward/mean", "Reward")
    gives_rollouts: ClassVar[bool] = True
    metric_names: ClassVar[MetricNames] = RL_NAMES

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.callbacks.append(RolloutsFile(self.cfg.rollouts_kept))
        self._judges: dict[str, Judge] = {}
        self._train_rows: list[Row] = []
        self._told_of_errors = False

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        """Render the prompts. Raises DataError for a row that is no task, or that its verifier cannot judge, and for too few."""
        self._train_rows, held_out = self._split(ctx)
        tokenizer, longest = backend.get_tokenizer(), getattr(backend, "max_positions", None)
        tasks, measured = tasks_of(self._train_rows), tasks_of(held_out)
        refuse_doubles(tasks)
        self._prompted = self._render(tasks, tokenizer, longest)
        self._held_out = self._render(measured, tokenizer, longest)
        if len(self._prompted) < self.cfg.batch_size:
            raise DataError(
                f"There are {len(self._prompted):,} tasks to train on, and a step takes batch_size {self.cfg.batch_size:,}: TRL"
                " makes no smaller step. Lower batch_size, or choose more tasks."
            )
        self._steps_per_epoch = len(self._prompted) // self.cfg.batch_size
        self.report(
            "info",
            f"Training on {len(self._prompted):,} tasks with {self.cfg.num_samples} attempts each;"
            f" {len(self._held_out):,} tasks are held out.",
        )
        if left := len(self._prompted) % self.cfg.batch_size:
            self.report("info", f"TRL leaves out the last {left:,} tasks of each epoch, which fill no batch; others each time.")

    async def teardown(self) -> None:
        for judge in self._judges.values():
            await judge.close()

    def train_rows(self, ctx: RunContext) -> Sequence[Row]:
        return self._train_rows

    def trainer(self, opened: OpenModel, plan: Plan, arguments: dict[str, Any]) -> Any:
        from recipes.algorithms.trl.rl_trainer import rl_trainer

        return rl_trainer(opened, arguments, self.cfg, self._prompted, self._held_out, tell=self._tell)

    @property
    def measure_every(self) -> int:
        return (self.cfg.validation_every or self._steps_per_epoch) if self._held_out else 0

    def _tell(self, step: int, rollouts: Sequence[Any], errors: Sequence[str]) -> None:
        """The rollouts of a step go to the callbacks; what could not be judged is told once."""
        if self._emit is not None and rollouts:
            self._emit.rollouts(step, rollouts)
        if errors and not self._told_of_errors:
            self._told_of_errors = True
            self.report(
                "warning",
                f"{len(errors):,} attempts of step {step} could not be judged and teach nothing. The first: {errors[0]} Later"
                " ones are counted in rollout/errors.",
            )

    def _split(self, ctx: RunContext) -> tuple[list[Row], list[Row]]:
        rows, held_out = list(ctx.extras.get("train_rows", [])), ctx.extras.get("validation_rows")
        if not rows:
            raise DataError("There are no tasks to train on. Choose a dataset with at least one task.")
        if held_out is not None:
            return rows, list(held_out)
        split = split_off(rows, self.cfg.validation_fraction, self.cfg.seed)
        if self.cfg.validation_fraction and not split.held_out:
            self.report("warning", f"{len(rows)} tasks are too few to hold out {self.cfg.validation_fraction:.0%} of them.")
        return split

    def _render(self, tasks: Sequence[Task], tokenizer: Any, longest: int | None) -> list[Prompted]:
        found, num_long = [], 0
        for task in tasks:
            judge = judge_of(task, self.cfg, self._judges)
            messages = with_system(task.messages, self.cfg.system_prompt)
            try:
                ids = render_prompt(messages, tokenizer, enable_thinking=self.cfg.enable_thinking, tools=task.tools or None)
            except RenderingError as error:
                raise DataError(f"The task {task.task_id!r} cannot be rendered: {error}", field=error.field) from error
            if longest is not None and len(ids) + self.cfg.max_tokens > longest:
                num_long += 1
            else:
                found.append(Prompted(task, messages, ids, judge))
        if num_long:
            self.report(
                "warning",
                f"{num_long:,} of {len(tasks):,} tasks are left out: with max_tokens {self.cfg.max_tokens:,} they are longer than"
                f" the {longest:,} tokens that the model reads.",
            )
        return found
