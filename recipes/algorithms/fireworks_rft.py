"""Reinforcement fine-tuning that Fireworks runs on its own servers, with an evaluator that is registered there.

1. The service samples, judges and learns; the evaluator is code that somebody registered in the account, and what it wants of a
   row is between it and whoever wrote it. This program makes no evaluator.
2. Rows are tasks: their messages, the answer under a name of choice, and the metadata.
3. What the job measures comes as a text whose form is not written down anywhere: it is read as JSON, leniently, and a job whose
   text cannot be read has no curves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, field_validator

from recipes.algorithms.fireworks_jobs import FireworksAlgorithm, FireworksJobConfig
from recipes.algorithms.managed_orders import JobRecord
from recipes.config import knob
from recipes.errors import ConfigError
from recipes.managed_jobs import JobKind, JobOrder, ManagedJobs
from recipes.managed_rows import task_row, write_rows
from recipes.registry import register_algorithm
from recipes.row_order import Split
from recipes.rows import RowFormat
from recipes.token_use import Range, TokenUse
from recipes.types import Headline, Row, RunContext

EVALUATOR = re.compile(r"(accounts/[a-z0-9-]{1,63}/evaluators/)?[a-z0-9][a-z0-9-]{0,62}")


class RewardMethod(StrEnum):
    GRPO = "grpo"
    DAPO = "dapo"
    GSPO_TOKEN = "gspo_token"  # nosec B105 # a method, by tokens


class FireworksRFTConfig(FireworksJobConfig):
    learning_rate: float = knob(1e-5, "Peak step size.", gt=0, le=1, essential=True)
    evaluator: str | None = knob(
        None,
        "Who gives the rewards: the id or whole name of an evaluator that is registered in the account. It is needed.",
        max_length=200,
        essential=True,
    )
    num_samples: int = knob(
        8, "Replies that are sampled for each task and compared.", unit="replies", ge=2, le=128, essential=True
    )
    method: RewardMethod = knob(RewardMethod.GRPO, "How rewards become gradients, in the service's words.", essential=True)
    kl_beta: float | None = knob(
        None, "How strongly the model is held to where it began; empty leaves it to the service.", ge=0, le=10
    )
    temperature: float = knob(1.0, "How freely replies are drawn.", gt=0, le=2)
    top_p: float = knob(1.0, "Draw from the likeliest tokens that have this share together; 1 is off.", gt=0, le=1)
    top_k: int | None = knob(None, "Draw from so many of the likeliest tokens; empty is off.", unit="tokens", ge=1, le=1_000_000)
    max_tokens: int = knob(2048, "Longest reply.", unit="tokens", ge=16, le=1_048_576, essential=True)
    answer_field: str = knob(
        "ground_truth", "Under which name of a row the evaluator looks for the task's answer.", min_length=1, max_length=100
    )
    chunk_size: int | None = knob(
        None,
        "Tasks that are sampled before the model learns from them; empty is the service's choice.",
        unit="tasks",
        ge=1,
        le=10_000,
    )
    max_concurrent_rollouts: int | None = knob(
        None, "Replies in flight at once; empty is the service's choice.", unit="replies", ge=1, le=100_000
    )

    @field_validator("evaluator")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not EVALUATOR.fullmatch(value):
            raise ValueError("an evaluator's id (lower-case letters, digits, hyphens), or accounts/…/evaluators/… is needed")
        return value

    @field_validator("answer_field")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in ("messages", "tools", "task_id", "metadata"):
            raise ValueError("that name stands for something else of the row")
        return value

    def token_use(self, row: Range, trained: Range, reply: Range | None) -> TokenUse:
        """Which groups the service learns from is not known."""
        said = (reply or Range(1, self.max_tokens)).times(self.num_samples)
        whole = row.times(self.num_samples).plus(said)
        return TokenUse(train=Range(0, whole.high), prefill=row.times(1, self.num_samples), sample=said)


@register_algorithm("fireworks_rft")
class FireworksRFT(FireworksAlgorithm):
    """Rows are tasks: `{"task_id", "messages", "answer"?, "tools"?, "metadata"?}`."""

    name: ClassVar[str] = "fireworks_rft"
    summary: ClassVar[str] = (
        "Reinforcement fine-tuning as a job on Fireworks' servers, with rewards of an evaluator that is registered there."
    )
    Config: ClassVar[type[BaseModel]] = FireworksRFTConfig
    row_format: ClassVar[RowFormat | None] = RowFormat.TASK
    headline: ClassVar[Headline] = Headline("reward/mean", "Reward")
    kind: ClassVar[JobKind] = JobKind.RFT
    ignored_fields: ClassVar[frozenset[str]] = frozenset({"renderer", "save_every"})
    """Such a job takes neither."""

    @classmethod
    def check_backend(cls, config: FireworksRFTConfig, backend: Any) -> None:
        """Raises ConfigError while no evaluator is named."""
        if config.evaluator is None:
            raise ConfigError(
                "Rewards come from an evaluator that is registered in the Fireworks account: give its id.",
                path=("algorithm", "params", "evaluator"),
            )

    @property
    def saves_between(self) -> bool:
        return False

    def split(self, ctx: RunContext, report: Callable[[str, str], None]) -> Split:
        if ctx.extras.get("validation_rows"):
            report("warning", "Such a job is not measured on held-out tasks from here; the validation split is left alone.")
        return Split(list(ctx.extras.get("train_rows", [])), [])

    def write(self, path: Path, rows: Sequence[Row]) -> int:
        return write_rows(path, rows, partial(task_row, answer_field=self.cfg.answer_field))

    def check(self, ctx: RunContext, jobs: ManagedJobs) -> None:
        super().check(ctx, jobs)
        jobs.check_evaluator(self.cfg.evaluator)

    def order(self, ctx: RunContext, record: JobRecord, *, account: str, is_measured: bool) -> JobOrder:
        cfg, order = self.cfg, super().order(ctx, record, account=account, is_measured=is_measured)
        drawn = {
            "response_candidates_count": cfg.num_samples,
            "temperature": cfg.temperature,
            "top_p": cfg.top_p,
            "max_output_tokens": cfg.max_tokens,
        }
        optional = {"chunk_size": cfg.chunk_size, "max_concurrent_rollouts": cfg.max_concurrent_rollouts}
        return replace(
            order,
            renderer=None,
            settings={key: value for key, value in order.settings.items() if key != "sampler_checkpoint_save_interval_steps"},
            evaluator=cfg.evaluator,
            sampling=drawn | ({"top_k": cfg.top_k} if cfg.top_k else {}),
            further={"eval_auto_carveout": False} | {key: value for key, value in optional.items() if value is not None},
        )

    def _loss(self) -> dict[str, Any]:
        beta = self.cfg.kl_beta
        return {"method": self.cfg.method.upper()} | ({"kl_beta": beta} if beta is not None else {})
