"""The settings of the fireworks backend. No SDK here: forms and validation read this in every process."""

from __future__ import annotations

import re
from enum import StrEnum
from urllib.parse import urlsplit

from pydantic import field_validator

from recipes.backends.hosted import HostedSettings
from recipes.config import BaseAlgorithmConfig, ModelConfig, knob
from recipes.errors import ConfigError

HOSTED = "https://api.fireworks.ai"
SCHEME = "fireworks://"
"""Before what the service calls weights: its own names do not look like addresses."""
PROMOTE = "Checkpoints of training step by step become models as the backend's setting promote says."
MOST_LIKELIEST = 5
"""Tokens of a position that completions there tell (its SDK's `top_logprobs`)."""
_ID = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_MODEL = re.compile(rf"accounts/{_ID}/models/{_ID}")


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
    """Raises ConfigError for what cannot be trained step by step, in the serverless pool."""
    if algorithm.lora_rank < 1:
        raise ConfigError(
            "Fireworks' pool trains LoRA adapters only: give a lora_rank of at least 1.",
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
