"""One eval run, as YAML or JSON: what to sample from, which tasks, how to verify, how often."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator

from recipes.config import BackendChoice, DataConfig, Document, Settings, knob, validated
from recipes.errors import ConfigError
from recipes.registry import backends, check_samples, serves, verifiers
from recipes.types import SamplingParams


class EvalModel(Settings):
    """A model that a backend opens, with the weights of a checkpoint when one is named."""

    name: str = knob(
        "starter",
        "The model: starter, a folder, a hub id such as Qwen/Qwen3-0.6B, or what its host calls it.",
        min_length=1,
        max_length=500,
        essential=True,
    )
    checkpoint: str | None = knob(
        None, "Weights of a checkpoint to sample from; empty takes the model as it is.", max_length=1000, essential=True
    )


class Endpoint(Settings):
    """An OpenAI-compatible server. The key itself is never here: `credential` names it."""

    base_url: str = Field(max_length=1000, description="Address of an OpenAI-compatible server, up to and with /v1.")
    model: str = Field(min_length=1, max_length=300, description="The model's name on that server.")
    credential: str | None = knob(None, "Name of the stored key to send; empty sends none.", max_length=200)
    timeout_seconds: float = knob(120.0, "Longest wait for one answer.", unit="seconds", gt=0, le=3600)
    max_retries: int = knob(4, "Further tries after 429, 5xx, a lost connection or no answer.", unit="tries", ge=0, le=20)

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or any(character.isspace() for character in value):
            raise ValueError("an address that begins with http:// or https:// and names a host is needed")
        if parts.username or parts.password:
            raise ValueError("leave the name and password out of the address; give a credential")
        if parts.query or parts.fragment:
            raise ValueError("the address ends before any ? or #")
        return value.rstrip("/")


class Serving(Settings):
    """A deployment that is made for the eval, where weights stay at a service and answer from nothing else."""

    accept_billing: bool = knob(
        False, "The deployment is billed for every second that its GPUs are up, busy or not: that is wanted.", essential=True
    )
    shape: str | None = knob(
        None, "What to serve on, in the service's words; empty takes the first that it matches.", max_length=500, essential=True
    )
    longest_hours: float = knob(
        4.0, "The deployment is deleted after so long, done or not.", unit="hours", gt=0, le=168, essential=True
    )
    max_dollars_per_hour: float | None = knob(
        None,
        "Make none that the list of prices says costs more, all replicas together, or whose price is not known; empty takes any.",
        unit="dollars",
        gt=0,
        le=100_000,
        essential=True,
    )
    max_replicas: int = knob(1, "So many machines at most, each billed.", unit="replicas", ge=1, le=64)
    idle_minutes: int = knob(
        5, "After so long without a request it has no machine any more, which ends the bill.", unit="minutes", ge=5, le=60
    )
    ready_seconds: float = knob(
        1800.0, "Longest wait until it is ready, and again until it answers.", unit="seconds", ge=1, le=86400
    )


class VerifierChoice(Settings):
    kind: str = Field("exact_match", max_length=100, description="Name of a registered verifier.")
    params: dict[str, Any] = Field(default_factory=dict, description="Its settings.")


class SamplingSettings(Settings):
    """How each attempt is sampled. Attempt i of a task has a seed of its own, made from `seed`, the task's id and i."""

    temperature: float = knob(1.0, "How freely words are drawn; 0 always takes the likeliest.", ge=0, le=10, essential=True)
    top_p: float = knob(1.0, "Draw from the likeliest tokens that have this share together; 1 is off.", gt=0, le=1)
    top_k: int | None = knob(None, "Draw from so many of the likeliest tokens; empty is off.", unit="tokens", ge=1, le=1_000_000)
    max_tokens: int = knob(256, "Longest reply.", unit="tokens", ge=1, le=1_000_000, essential=True)
    seed: int | None = knob(0, "Same seed, same attempts, as far as the sampler allows; empty draws anew.", ge=0, le=2**31 - 1)
    stop: list[str] = knob([], "Texts that end a reply; they are left out of it.", max_length=16)
    system_prompt: str | None = knob(
        None, "Put before the conversation of every task that has no system message.", max_length=100_000
    )

    @field_validator("stop")
    @classmethod
    def _stops_hold_text(cls, values: list[str]) -> list[str]:
        if "" in values:
            raise ValueError("a text that ends a reply cannot be empty")
        return values

    def params(self) -> SamplingParams:
        """As the sampling clients take it."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=-1 if self.top_k is None else self.top_k,
            seed=self.seed,
            stop=tuple(self.stop),
        )


class EvalConfig(Document):
    """One eval run. Exactly one of `model` and `endpoint` says what is sampled from."""

    version: Literal[1] = 1
    name: str = Field("eval", min_length=1, max_length=200, description="What people call this eval run.")
    model: EvalModel | None = Field(None, description="Sample from a model or a checkpoint.")
    endpoint: Endpoint | None = Field(None, description="Sample from an OpenAI-compatible server.")
    backend: BackendChoice = Field(default_factory=lambda: BackendChoice(), description="What opens the model.")
    serving: Serving | None = Field(
        None, description="For a backend that answers from deployments only (fireworks): the one to make, which is billed."
    )
    data: DataConfig = Field(description="The tasks.")
    verifier: VerifierChoice = Field(
        default_factory=lambda: VerifierChoice(), description="What decides whether a reply is right."
    )
    sampling: SamplingSettings = Field(default_factory=lambda: SamplingSettings(), description="How attempts are sampled.")
    attempts: int = knob(8, "Attempts per task (k).", unit="attempts", ge=1, le=1024, essential=True)
    concurrency: int | None = knob(
        None,
        "Attempts in flight at once; empty is 32 for an endpoint and what fills the batch on this machine.",
        unit="attempts",
        ge=1,
        le=4096,
    )
    max_tasks: int | None = knob(None, "Only the first so many tasks; empty takes all.", unit="tasks", ge=1, le=10_000_000)
    max_errors_in_a_row: int = knob(
        20,
        "Give up after so many failures in a row for reasons of infrastructure, but not before twice the concurrency.",
        unit="attempts",
        ge=1,
        le=100_000,
    )

    @model_validator(mode="after")
    def _one_model(self) -> EvalConfig:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("give exactly one of model and endpoint")
        return self

    @property
    def model_label(self) -> str:
        """What is sampled from, in a word or two."""
        if self.endpoint is not None:
            return self.endpoint.model
        assert self.model is not None
        return self.model.name

    def check(self) -> None:
        self.verifier_config()
        self.backend_config()
        if self.model is None or not serves(self.backend.kind):
            if self.serving is not None:
                raise ConfigError(
                    "serving is for a model whose backend answers from deployments only; leave it away.", path=("serving",)
                )
            check_samples(self.backend.kind)
            return
        backends.get(self.backend.kind).served_name(self.model.name, self.model.checkpoint)
        if self.serving is None or not self.serving.accept_billing:
            raise ConfigError(
                f"{self.backend.kind} answers from a deployment only, which is billed for every second that its GPUs are up."
                " Agree to that (serving.accept_billing: true), and one is made for this eval and deleted after it.",
                path=("serving", "accept_billing"),
            )

    def verifier_config(self) -> BaseModel:
        """The verifier's own Config, validated. Raises ConfigError with the path of the field."""
        config: BaseModel = validated(verifiers.get(self.verifier.kind).Config, self.verifier.params, ("verifier", "params"))
        return config

    def backend_config(self) -> BaseModel:
        """The backend's own Config, validated. Raises ConfigError with the path of the field."""
        config: BaseModel = validated(backends.get(self.backend.kind).Config, self.backend.params, ("backend", "params"))
        return config
