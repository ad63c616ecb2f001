"""The settings of the fireworks backend. No SDK here: forms and validation read this in every process."""

from __future__ import annotations

import re
from enum import StrEnum
from urllib.parse import urlsplit

from pydantic import BaseModel, field_validator

from recipes.backends.hosted import HostedSettings
from recipes.config import BaseAlgorithmConfig, ModelConfig, knob
from recipes.errors import ConfigError
from recipes.prices import machines_of, shape_of

HOSTED = "https://api.fireworks.ai"
SCHEME = "fireworks://"
"""Before what the service calls weights: its own names do not look like addresses."""
PROMOTE = "Checkpoints of training step by step become models as the backend's setting promote says."
MOST_LIKELIEST = 5
"""Tokens of a position that completions there tell (its SDK's `top_logprobs`)."""
_ID = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_MODEL = re.compile(rf"accounts/{_ID}/models/{_ID}")
_SHAPE = re.compile(rf"accounts/{_ID}/trainingShapes/{_ID}")


class Trainer(StrEnum):
    SERVERLESS = "serverless"
    DEDICATED = "dedicated"


NO_SAMPLER = (
    "A dedicated trainer is not sampled from here, which would need a deployment beside it: what samples while it trains (rl,"
    " sdft) trains in the serverless pool."
)
TRAINER_PLACE = ("backend", "params", "trainer")
OF_DEDICATED = frozenset(
    {"training_shape", "accept_billing", "max_dollars_per_hour", "longest_hours", "ready_seconds", "idle_minutes"}
)
"""Settings that only a dedicated trainer has a use for."""


class Promoted(StrEnum):
    NONE = "none"
    FINAL = "final"
    ALL = "all"


class FireworksConfig(HostedSettings):
    """Whose account trains, and how long to wait for it. What is trained is the algorithm's business."""

    base_url: str | None = knob(
        None,
        "Address of a server that speaks Fireworks' protocol; empty is Fireworks itself.",
        max_length=1000,
    )
    credential: str | None = knob(
        None,
        "Name of the stored key to send; empty takes FIREWORKS_API_KEY of the worker, for Fireworks itself only.",
        max_length=200,
        essential=True,
    )
    account_id: str | None = knob(
        None,
        "The Fireworks account to train in; empty takes the one that the key belongs to.",
        max_length=100,
        essential=True,
    )
    tokenizer: str | None = knob(
        None,
        "Whose tokenizer the model uses, as a hub id or a folder: rows are rendered here, step by step.",
        max_length=500,
        essential=True,
    )
    step_seconds: float = knob(
        900.0, "Longest wait for one result of a step, time in the service's queue included.", unit="seconds", ge=1, le=86400
    )
    promote: Promoted = knob(
        Promoted.FINAL,
        "Which checkpoints of training step by step become models of the account, that evals can have served and jobs can begin"
        " from: the last one, all, or none. What is none is gone with the session.",
    )
    timeout_seconds: float = knob(60.0, "Longest wait for one answer of the service.", unit="seconds", ge=1, le=3600)
    outage_seconds: float = knob(
        900.0,
        "How long the service may be out of reach before the run gives up waiting, for a job (which goes on) or for a model.",
        unit="seconds",
        ge=1,
        le=86400,
    )
    trainer: Trainer = knob(
        Trainer.SERVERLESS,
        "What takes the steps of sft and dpo: the serverless pool, billed by token, or a dedicated trainer, billed by the hour"
        " while it is up.",
        essential=True,
    )
    accept_billing: bool = knob(
        False,
        "A dedicated trainer is billed for every second that its GPUs are up, busy or not: that is wanted.",
        essential=True,
    )
    training_shape: str | None = knob(
        None,
        "What a dedicated trainer runs on, as accounts/fireworks/trainingShapes/…; empty lets the service choose for the model.",
        max_length=300,
        essential=True,
    )
    longest_hours: float = knob(
        12.0,
        "A dedicated trainer is deleted so long after its order, done or not, whoever has taken it up since; the last minutes are"
        " for saving, and a run that is resumed then has another one.",
        unit="hours",
        gt=0,
        le=168,
    )
    max_dollars_per_hour: float | None = knob(
        None,
        "Order no dedicated trainer that the list of prices says costs more, or whose price is not known; empty takes any.",
        unit="dollars",
        gt=0,
        le=100_000,
    )
    ready_seconds: float = knob(
        3600.0,
        "Longest wait until a dedicated trainer is ready, that for capacity included; then it is deleted.",
        unit="seconds",
        ge=1,
        le=172_800,
    )
    idle_minutes: int = knob(
        15,
        "The service stops a dedicated trainer that nobody has asked for so long, which ends the bill if this worker dies.",
        unit="minutes",
        ge=5,
        le=180,
    )

    @field_validator("training_shape")
    @classmethod
    def _is_a_bare_shape(cls, value: str | None) -> str | None:
        name = (value or "").strip()
        if not name:
            return None
        if "/versions/" in name:
            raise ValueError("leave /versions/… away: the service takes the newest version that it has validated")
        if not _SHAPE.fullmatch(name):
            raise ValueError("give its resource name, such as accounts/fireworks/trainingShapes/qwen3-8b-256k-h200-lora")
        return name

    def switched_off(self, algorithm: BaseModel, model: ModelConfig) -> dict[str, str]:
        """Settings that have no effect, each with what a sentence says after that."""
        if not isinstance(algorithm, BaseAlgorithmConfig):
            return dict.fromkeys({*OF_DEDICATED, "trainer"}, "on a job, which the service trains where it likes")
        if self.trainer is Trainer.SERVERLESS:
            return dict.fromkeys(OF_DEDICATED, "unless trainer is dedicated")
        return {}

    def billed_hours(self, algorithm: BaseModel) -> float | None:
        """The most that one run is billed for by time; None where tokens are billed."""
        is_by_time = self.trainer is Trainer.DEDICATED and isinstance(algorithm, BaseAlgorithmConfig)
        return self.longest_hours if is_by_time else None

    def price_of_time(self, kind: str, algorithm: BaseModel, model_name: str) -> str:
        """What is billed while it is up, in a sentence; empty where tokens are billed. kind: the backend's, in the price list."""
        if self.billed_hours(algorithm) is None:
            return ""
        rates = "; ".join(f"${row.per_hour:,.2f} for {row.accelerator}, {row.said}" for row in machines_of(kind))
        known = shape_of(kind, model_name)
        name_one = f"only once it is up: name one{f', such as {known.said}' if known else ''}"
        when = "when the run orders it, before anything is made" if self.training_shape else name_one
        return (
            "A dedicated trainer is billed per GPU-second while it is up, while it starts too, for"
            f" {self.longest_hours:g} hours at most after its order. A GPU costs an hour: {rates or 'not known'}. How many of"
            f" which it has, its training shape says {when}. The host's bill decides."
        )

    @field_validator("account_id")
    @classmethod
    def _is_an_account(cls, value: str | None) -> str | None:
        name = (value or "").strip().removeprefix("accounts/")
        if not name:
            return None
        if not re.fullmatch(_ID, name):
            raise ValueError("an account's id has lower-case letters, digits and hyphens only")
        return name


def check_steps(settings: FireworksConfig, algorithm: BaseAlgorithmConfig, model: ModelConfig) -> None:
    """Raises ConfigError for what cannot be trained step by step."""
    if algorithm.lora_rank < 1:
        raise ConfigError(
            "Step by step, Fireworks trains LoRA adapters only: give a lora_rank of at least 1.",
            path=("algorithm", "params", "lora_rank"),
        )
    if model.init_from_checkpoint and not is_model_address(model.init_from_checkpoint):
        raise ConfigError(
            f"{model.init_from_checkpoint} is no model at Fireworks ({SCHEME}accounts/…/models/…), so no training there can begin"
            f" from it. {PROMOTE}",
            path=("model", "init_from_checkpoint"),
        )
    if (topk := getattr(algorithm, "topk", 0)) > MOST_LIKELIEST:
        raise ConfigError(
            f"Fireworks tells the {MOST_LIKELIEST} likeliest tokens of a position at most, not {topk}: lower topk.",
            path=("algorithm", "params", "topk"),
        )
    if settings.tokenizer is None:
        raise ConfigError(
            "Training step by step renders the rows here: name the model's tokenizer, as a hub id.",
            path=("backend", "params", "tokenizer"),
        )
    if settings.trainer is Trainer.DEDICATED:
        check_dedicated(settings)


def check_dedicated(settings: FireworksConfig) -> None:
    """Raises ConfigError while nobody has agreed to pay, or to an unknown price."""
    if not settings.accept_billing:
        raise ConfigError(
            "A dedicated trainer is billed for every second that its GPUs are up. Agree to that (accept_billing: true), and one"
            f" is ordered for the run and deleted after it, or after {settings.longest_hours:g} hours; or train in the serverless"
            " pool (trainer: serverless).",
            path=("backend", "params", "accept_billing"),
        )
    if settings.max_dollars_per_hour is not None and settings.training_shape is None:
        raise ConfigError(
            "Which GPUs the service would choose is known only when they are billed already: name a training_shape, or leave"
            " max_dollars_per_hour empty.",
            path=("backend", "params", "training_shape"),
        )


def place_of(settings: FireworksConfig) -> str:
    return "Fireworks" if settings.base_url is None else f"The server at {urlsplit(settings.base_url).netloc}"


def is_model_name(name: str) -> bool:
    return _MODEL.fullmatch(name) is not None


def is_model_address(address: str) -> bool:
    return address.startswith(SCHEME) and is_model_name(address.removeprefix(SCHEME))


def check_model_name(name: str) -> None:
    """Raises ConfigError for what is no model's resource name."""
    if not is_model_name(name):
        raise ConfigError(
            f"{name!r} is no model of Fireworks. Give its resource name, such as accounts/fireworks/models/qwen3p5-9b.",
            path=("model", "name"),
        )
