"""Fine-tuning that Fireworks runs on its own servers: a job is ordered, watched and brought home (see `managed_run`).

1. The service owns the loop: it renders the chats by the model's own template, packs, shuffles and schedules. What it offers no
   setting for (Adam's betas, clipping, schedules, renderers of ours, evaluators between steps) is not in these Configs.
2. Its defaults are not relied on: every setting below is sent, and so is the loss of preferences, whose default its own documents
   tell in two ways.
3. Weights stay there. A checkpoint is the name of a model, which a deployment answers for and which another job can begin from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ValidationError, field_validator

from recipes.algorithms.managed_orders import JobRecord
from recipes.algorithms.managed_run import ManagedRun
from recipes.config import Settings, knob, sentences
from recipes.errors import ConfigError, DataError
from recipes.managed_jobs import JobKind, JobOrder, ManagedJobs
from recipes.managed_rows import chat_row, preference_row, write_rows
from recipes.registry import backends, register_algorithm
from recipes.rendering import Supervise
from recipes.row_order import Split, num_batches, split_off
from recipes.rows import RowFormat
from recipes.types import Headline, Row, RunContext, RunResult

SCHEME = "fireworks://"


class FireworksJobConfig(Settings):
    """What both kinds of jobs take, and how they are watched."""

    learning_rate: float = knob(1e-4, "Peak step size.", gt=0, le=1, essential=True)
    num_epochs: int = knob(1, "Passes over the training rows.", unit="epochs", ge=1, le=100, essential=True)
    batch_size: int = knob(16, "Training rows per optimizer step.", unit="rows", ge=1, le=65536, essential=True)
    lora_rank: int = knob(8, "Rank of the LoRA adapters, a power of two; 0 trains all weights.", ge=0, le=32, essential=True)
    max_seq_len: int | None = knob(
        None, "Longest row that the job reads; empty leaves it to the model.", unit="tokens", ge=16, le=1_048_576, essential=True
    )
    lr_warmup_steps: int = knob(0, "Steps over which the learning rate rises to its peak.", unit="steps", ge=0, le=1_000_000)
    weight_decay: float = knob(0.0, "Decoupled weight decay.", ge=0, le=10)
    save_every: int = knob(
        0,
        "Let the job keep weights every so many steps, so that a stopped or failed one leaves a model; 0 keeps the last only.",
        unit="steps",
        ge=0,
        le=1_000_000,
    )
    renderer: str | None = knob(None, "Hub id whose chat rendering the service takes; empty is the model's own.", max_length=300)
    poll_seconds: float = knob(15.0, "Longest pause between two looks at the job.", unit="seconds", ge=0.01, le=600)
    queue_seconds: float = knob(
        86400.0, "How long the job may stand in one waiting state before it is cancelled.", unit="seconds", ge=0.1, le=2_592_000
    )
    no_progress_seconds: float = knob(
        7200.0,
        "How long a running job may show no progress at all before it is cancelled as stuck.",
        unit="seconds",
        ge=0.1,
        le=2_592_000,
    )

    @field_validator("lora_rank")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("a power of two is needed (1, 2, 4, 8, 16, 32), or 0")
        return value

    def total_steps(self, steps_per_epoch: int) -> int:
        return max(1, steps_per_epoch * self.num_epochs)


class FireworksSFTConfig(FireworksJobConfig):
    supervise: Supervise = knob(Supervise.ALL_ASSISTANT, "Which assistant turns are learnt.", essential=True)
    validation_fraction: float = knob(0.0, "Share of the rows held out to measure the loss on; 0 holds out none.", ge=0, le=0.5)
    early_stop: bool = knob(False, "Let the service end the job when the loss on held-out rows gets no better.")
    seed: int = knob(0, "Seeds which rows are held out; the job's own draws are not seeded.", ge=0, le=2**31 - 1)


class PreferenceMethod(StrEnum):
    DPO = "dpo"
    ORPO = "orpo"


class FireworksDPOConfig(FireworksJobConfig):
    learning_rate: float = knob(
        1e-5,
        "Peak step size. Preferences want smaller steps than imitation: too large, and both replies become unlikely.",
        gt=0,
        le=1,
        essential=True,
    )
    method: PreferenceMethod = knob(
        PreferenceMethod.DPO, "dpo measures from the weights it begins from; orpo needs no reference.", essential=True
    )
    beta: float = knob(
        0.1, "How strongly the model is held to where it began: the larger, the nearer it stays.", gt=0, lt=0.5, essential=True
    )

    def switched_off(self) -> dict[str, str]:
        """See `recipes.effects`."""
        return {"beta": "under the method orpo"} if self.method is PreferenceMethod.ORPO else {}


class FireworksAlgorithm:
    """What both share: the settings that are sent, and where the service is."""

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    row_format: ClassVar[RowFormat | None]
    kind: ClassVar[JobKind]
    runs_on: ClassVar[frozenset[str]] = frozenset({"fireworks"})
    unused_backend_fields: ClassVar[frozenset[str]] = frozenset(
        {"tokenizer", "step_seconds", "promote", "trainer", "training_shape", "accept_billing", "max_dollars_per_hour"}
        | {"longest_hours", "ready_seconds", "idle_minutes"}
    )
    """Settings of steps: a form for a job does not show them."""
    gives_rollouts: ClassVar[bool] = False

    def __init__(self, **params: Any) -> None:
        try:
            self.cfg = cast(Any, self.Config(**params))
        except ValidationError as error:
            place = ("algorithm", "params")
            raise ConfigError("; ".join(sentences(error, place)), path=(*place, *error.errors()[0]["loc"])) from None

    def train(self, ctx: RunContext) -> RunResult:
        """One whole run, watched from here. Foreseen failures (RecipeError) end as status failed; others are recorded and raised
        again."""
        return ManagedRun(self, ctx).execute()

    @property
    def watch(self) -> FireworksJobConfig:
        return cast(FireworksJobConfig, self.cfg)

    @property
    def saves_between(self) -> bool:
        return bool(self.cfg.save_every)

    def outage_seconds(self, ctx: RunContext) -> float:
        return float(getattr(ctx.config.backend_config(), "outage_seconds", 0.0))

    def connect(self, ctx: RunContext, wait: Callable[[float], None], account: str) -> ManagedJobs:
        if ctx.config.backend.kind not in self.runs_on:
            raise ConfigError(f"{self.name} trains on {' or '.join(sorted(self.runs_on))} only.", path=("backend", "kind"))
        backend = backends.get(ctx.config.backend.kind)
        opened: ManagedJobs = backend.jobs(ctx.config.backend_config(), secrets=ctx.secrets, wait=wait, account=account)
        return opened

    def split(self, ctx: RunContext, report: Callable[[str, str], None]) -> Split:
        raise AssertionError(f"{self.name} does not say which rows it learns from")

    def write(self, path: Path, rows: Sequence[Row]) -> int:
        raise AssertionError(f"{self.name} does not say how its rows travel")

    def num_steps(self, num_rows: int) -> int:
        steps: int = self.cfg.total_steps(num_batches(num_rows, self.cfg.batch_size))
        return steps

    def check(self, ctx: RunContext, jobs: ManagedJobs) -> None:
        begun_from = ctx.config.model.init_from_checkpoint
        if begun_from is not None and not begun_from.startswith(SCHEME):
            raise ConfigError(
                "A job at Fireworks begins from weights that Fireworks trained; this checkpoint lies elsewhere.",
                path=("model", "init_from_checkpoint"),
            )
        jobs.check_model(ctx.config.model.name, rank=self.cfg.lora_rank, kind=self.kind)

    def weights_uri(self, account: str, model_id: str) -> str:
        return f"{SCHEME}accounts/{account}/models/{model_id}"

    def order(self, ctx: RunContext, record: JobRecord, *, account: str, is_measured: bool) -> JobOrder:
        begun_from = ctx.config.model.init_from_checkpoint
        cfg = self.cfg
        settings = {
            "epochs": cfg.num_epochs,
            "learning_rate": cfg.learning_rate,
            "batch_size_samples": cfg.batch_size,
            "lora_rank": cfg.lora_rank,
            "learning_rate_warmup_steps": cfg.lr_warmup_steps,
            "optimizer_weight_decay": cfg.weight_decay,
        }
        optional = {"max_context_length": cfg.max_seq_len, "sampler_checkpoint_save_interval_steps": cfg.save_every or None}
        return JobOrder(
            kind=self.kind,
            job_id=record.job,
            title=ctx.config.name[:60],
            dataset=record.dataset,
            evaluation=record.evaluation if is_measured else None,
            output_model=f"accounts/{account}/models/{record.model}",
            base_model=None if begun_from else ctx.config.model.name,
            warm_start=begun_from.removeprefix(SCHEME) if begun_from else None,
            renderer=cfg.renderer,
            settings=settings
            | {key: value for key, value in optional.items() if value is not None}
            | self._own_settings(is_measured),
            loss=self._loss(),
        )

    def _own_settings(self, is_measured: bool) -> dict[str, Any]:
        return {}

    def _loss(self) -> dict[str, Any]:
        return {}


@register_algorithm("fireworks_sft")
class FireworksSFT(FireworksAlgorithm):
    """Rows are `{"messages": […], "tools"?}`."""

    name: ClassVar[str] = "fireworks_sft"
    summary: ClassVar[str] = (
        "Supervised fine-tuning as a job on Fireworks' servers: it goes on while this machine sleeps, the weights stay there."
    )
    Config: ClassVar[type[BaseModel]] = FireworksSFTConfig
    row_format: ClassVar[RowFormat | None] = RowFormat.MESSAGES
    kind: ClassVar[JobKind] = JobKind.SFT

    def split(self, ctx: RunContext, report: Callable[[str, str], None]) -> Split:
        rows, held_out = list(ctx.extras.get("train_rows", [])), ctx.extras.get("validation_rows")
        share = self.cfg.validation_fraction
        if held_out is not None:
            if share:
                report("warning", "The rows to measure the loss on are given, so validation_fraction holds out no others.")
            return Split(rows, list(held_out))
        split = split_off(rows, share, self.cfg.seed) if rows else Split([], [])
        if share and not split.held_out:
            report("warning", f"{len(rows)} rows are too few to hold out {share:.0%} of them.")
        if self.cfg.early_stop and not split.held_out:
            raise DataError("early_stop needs rows to measure the loss on: set validation_fraction above 0, or turn it off.")
        return split

    def write(self, path: Path, rows: Sequence[Row]) -> int:
        return write_rows(path, rows, partial(chat_row, supervise=self.cfg.supervise))

    def _own_settings(self, is_measured: bool) -> dict[str, Any]:
        return {"early_stop": self.cfg.early_stop and is_measured, "eval_auto_carveout": False}


@register_algorithm("fireworks_dpo")
class FireworksDPO(FireworksAlgorithm):
    """Rows are `{"prompt": […], "chosen": […], "rejected": […], "tools"?}`, each reply one turn."""

    name: ClassVar[str] = "fireworks_dpo"
    summary: ClassVar[str] = (
        "Preference optimisation as a job on Fireworks' servers; it goes on while this machine sleeps, the weights stay there."
    )
    Config: ClassVar[type[BaseModel]] = FireworksDPOConfig
    row_format: ClassVar[RowFormat | None] = RowFormat.PREFERENCE
    headline: ClassVar[Headline] = Headline("train/loss", "Loss")
    kind: ClassVar[JobKind] = JobKind.DPO

    def split(self, ctx: RunContext, report: Callable[[str, str], None]) -> Split:
        rows = list(ctx.extras.get("train_rows", []))
        if ctx.extras.get("validation_rows"):
            report("warning", "Fireworks measures no held-out pairs in such a job; the validation split is left alone.")
        if several := sum(isinstance(row.get("prompt"), list) and _num_asked(row["prompt"]) > 1 for row in rows):
            report("warning", f"{several:,} prompts have several user turns; Fireworks documents one only and may refuse them.")
        return Split(rows, [])

    def write(self, path: Path, rows: Sequence[Row]) -> int:
        return write_rows(path, rows, preference_row)

    def _loss(self) -> dict[str, Any]:
        method = self.cfg.method
        return {"method": method.upper()} | ({"dpo": {"beta": self.cfg.beta}} if method is PreferenceMethod.DPO else {})


def _num_asked(prompt: Sequence[Any]) -> int:
    return sum(isinstance(message, dict) and message.get("role") == "user" for message in prompt)
