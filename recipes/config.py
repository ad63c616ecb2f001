"""Every setting, declared once: default, bounds, unit, one sentence. Forms, REST bodies, YAML and errors are drawn from here.

A run is `RunConfig`: a name, a model, data, an algorithm {kind, params}, a backend {kind, params}. Unknown keys are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, runtime_checkable

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recipes.errors import CheckpointError, ConfigError
from recipes.registry import algorithms, backends, backends_for, learns_from_samples, uses_backend
from recipes.saved_adapters import ALPHA_RATIO, NO_ADAPTER_WITHOUT_RANK, saved_adapter
from recipes.token_use import Range, TokenUse

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def knob(default: Any, description: str, *, unit: str = "", essential: bool = False, **bounds: Any) -> Any:
    """A pydantic Field with what a form needs besides the bounds: its unit, and whether it is shown without opening Advanced."""
    return Field(default, description=description, json_schema_extra={"unit": unit, "essential": essential}, **bounds)


class Settings(BaseModel):
    """Base of every Config: no unknown keys, no NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)


class Document(Settings):
    """A Config that people keep as a file: YAML in and out."""

    def check(self) -> None:
        """Check the settings of the parts that are chosen by kind. Raises ConfigError with the path of the field."""

    def to_yaml(self) -> str:
        """Read again it is the same: what is empty is left away only where that is the default."""
        return yaml.safe_dump(_written(self), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Parse and check, the parts' settings included. Raises ConfigError with the place of the mistake."""
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise ConfigError(f"This is not YAML{where}: {getattr(error, 'problem', None) or error}.") from None
        if not isinstance(values, dict):
            raise ConfigError(f"This YAML is no mapping. It holds some of: {', '.join(cls.model_fields)}.")
        return cls.from_values(values)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """The same from a dict. Raises ConfigError."""
        config = validated(cls, values)
        config.check()
        return config


def _written(config: BaseModel) -> dict[str, Any]:
    """As JSON, without what is empty by default."""
    dumped = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            dumped[name] = _written(value)
        elif value is None and field.get_default(call_default_factory=True) is None:
            del dumped[name]
    return dumped


class LRSchedule(StrEnum):
    CONSTANT = "constant"
    LINEAR_WARMUP = "linear_warmup"
    LINEAR_DECAY = "linear_decay"
    COSINE = "cosine"
    COSINE_WITH_WARMUP = "cosine_with_warmup"


class CallbackChoice(Settings):
    kind: str = Field(description="Name of a registered callback.")
    params: dict[str, Any] = Field(default_factory=dict, description="Its settings.")


class BaseAlgorithmConfig(Settings):
    """Knobs that every step-driven recipe shares. An algorithm may restate a field to change its default."""

    drops_last_batch: ClassVar[bool] = False
    """The rows that fill no batch at the end of an epoch are not trained in it."""

    learning_rate: float = knob(1e-4, "Peak Adam step size.", gt=0, le=1, essential=True)
    num_epochs: int = knob(1, "Passes over the training rows.", unit="epochs", ge=1, le=1000, essential=True)
    batch_size: int = knob(4, "Training rows per optimizer step.", unit="rows", ge=1, le=65536, essential=True)
    max_steps: int | None = knob(
        None, "Hard cap on optimizer steps; wins over the number of epochs.", unit="steps", ge=1, le=10_000_000, essential=True
    )
    lora_rank: int = knob(8, "Rank of the LoRA adapters; 0 trains all weights.", ge=0, le=512, essential=True)
    renderer_name: str | None = knob(None, "Chat renderer; empty means the model's own chat template.", max_length=100)
    enable_thinking: bool | None = knob(None, "Passed to chat templates that know it; empty leaves the template's default.")
    save_every: int = knob(
        0, "Save a resumable checkpoint every so many steps; 0 saves at the fractions below.", unit="steps", ge=0, le=10_000_000
    )
    save_at_fractions: list[float] = knob(
        [1.0], "Shares of the run after which a checkpoint is saved, each in (0, 1].", max_length=100
    )
    callbacks: list[CallbackChoice] = knob([], "Further callbacks, e.g. early_stopping.", max_length=20)
    adam_beta1: float = knob(0.9, "Decay of Adam's first moment.", ge=0, lt=1)
    adam_beta2: float = knob(0.95, "Decay of Adam's second moment.", ge=0, lt=1)
    adam_eps: float = knob(1e-8, "Added to Adam's denominator.", gt=0, le=1)
    weight_decay: float = knob(0.0, "Decoupled weight decay.", ge=0, le=10)
    grad_clip_norm: float = knob(0.0, "Gradients are scaled down to this norm; 0 leaves them alone.", ge=0, le=1e6)
    lr_schedule: LRSchedule = knob(LRSchedule.CONSTANT, "How the learning rate moves over the run.", essential=True)
    lr_warmup_steps: int = knob(0, "Steps over which the learning rate rises to its peak.", unit="steps", ge=0, le=10_000_000)
    lr_min_ratio: float = knob(0.0, "Share of the peak that a decaying schedule ends at.", ge=0, le=1)
    seed: int = knob(0, "Seeds adapter weights, the shuffle of every epoch, and sampling.", ge=0, le=2**31 - 1)

    @field_validator("save_at_fractions")
    @classmethod
    def _fractions_in_range(cls, values: list[float]) -> list[float]:
        for value in values:
            if not 0 < value <= 1:
                raise ValueError(f"each fraction lies above 0 and at most 1, not {value:g}")
        return sorted(set(values))

    def save_steps(self, num_steps: int) -> set[int]:
        """The steps (1-based) after which a checkpoint is due; always holds `num_steps`."""
        if self.save_every:
            return {*range(self.save_every, num_steps + 1, self.save_every), num_steps}
        return {max(1, min(num_steps, round(share * num_steps))) for share in self.save_at_fractions} | {num_steps}

    def token_use(self, row: Range, trained: Range, reply: Range | None) -> TokenUse | None:
        """What a row costs, for an estimate. row, trained: its tokens, and those of them that replies hold. reply: tokens that
        the model was seen to say, where that is known. None: nobody can tell, as here of rows without replies."""
        return TokenUse(train=row) if trained.high else None

    def switched_off(self) -> dict[str, str]:
        """Settings that others of this Config leave without effect, each with what a sentence says after "has no effect"."""
        return {} if self.max_steps is None else {"num_epochs": "while max_steps is set"}

    def total_steps(self, steps_per_epoch: int) -> int:
        """`max_steps` when given, else epochs × steps per epoch."""
        return self.max_steps if self.max_steps is not None else max(1, steps_per_epoch * self.num_epochs)


@runtime_checkable
class Planned(Protocol):
    """An algorithm's Config that says before the start how many steps it will take, step-driven or not."""

    batch_size: int

    def total_steps(self, steps_per_epoch: int) -> int: ...


@runtime_checkable
class TellsTokenUse(Protocol):
    """An algorithm's Config that says what it does with a row; see `BaseAlgorithmConfig.token_use`."""

    def token_use(self, row: Range, trained: Range, reply: Range | None) -> TokenUse | None: ...


class ModelConfig(Settings):
    name: str = Field(
        "starter",
        min_length=1,
        max_length=500,
        description="The model: starter, a folder, a hub id such as Qwen/Qwen3-0.6B, or what its host calls it.",
    )
    init_from_checkpoint: str | None = Field(None, max_length=1000, description="Weights to begin from, with a fresh optimizer.")


class DataConfig(Settings):
    """Exactly one source of rows. `dataset` is resolved by the dashboard, `path` by the recipe's data store."""

    path: str | None = Field(None, max_length=1000, description="A JSONL file of rows.")
    dataset: str | None = Field(None, max_length=300, description="A dataset version, as name@version.")
    split: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Only the rows of this split of the dataset; left away, training takes train where there are splits.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give exactly one of path and dataset")
        if self.split is not None and self.dataset is None:
            raise ValueError("a file has no splits: give split with a dataset only")
        return self


class AlgorithmChoice(Settings):
    kind: str = Field("sft", description="Name of a registered algorithm.")
    params: dict[str, Any] = Field(default_factory=dict, description="Its settings.")


class BackendChoice(Settings):
    kind: str = Field("local", description="Name of a registered backend.")
    params: dict[str, Any] = Field(default_factory=dict, description="Its settings.")


class RunConfig(Document):
    """One training run, as YAML or JSON."""

    version: Literal[1] = 1
    name: str = Field("run", min_length=1, max_length=200, description="What people call this run.")
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    data: DataConfig
    algorithm: AlgorithmChoice = Field(default_factory=lambda: AlgorithmChoice())
    backend: BackendChoice = Field(default_factory=lambda: BackendChoice())

    @model_validator(mode="before")
    @classmethod
    def _one_run(cls, values: Any) -> Any:
        if isinstance(values, dict) and "matrix" in values and "matrix" not in cls.model_fields:
            raise ValueError("a matrix makes a sweep of several runs, and here a single one is read: launch it as a sweep")
        return values

    def check(self) -> None:
        settings, chosen = self.algorithm_config(), self.backend_config()
        if self.backend.kind not in (usable := backends_for(self.algorithm.kind)):
            raise ConfigError(
                f"{self.algorithm.kind} does not train on {self.backend.kind}. Choose {' or '.join(usable) or 'another'}.",
                path=("backend", "kind"),
            )
        check_pair(algorithms.get(self.algorithm.kind), settings, backends.get(self.backend.kind), chosen, self.model)

    def check_weights(self) -> None:
        """Whether the weights to begin from fit the settings, as far as a folder here says. Apart from `check`: not everybody may
        look into every folder. Raises ConfigError."""
        parts = {"algorithm": self.algorithm_config(), "backend": self.backend_config()}
        owner = next((name for name, part in parts.items() if hasattr(part, ALPHA_RATIO)), None)
        rank, place = getattr(parts["algorithm"], "lora_rank", None), ("algorithm", "params", "lora_rank")
        if owner is None or rank is None:
            return  # adapters elsewhere are their keeper's business
        try:
            saved = saved_adapter(self.model.init_from_checkpoint)
        except CheckpointError as error:
            raise ConfigError(str(error), path=("model", "init_from_checkpoint")) from None
        if saved is None:
            return
        if not rank:
            raise ConfigError(NO_ADAPTER_WITHOUT_RANK, path=place)
        if unlike := saved.unlike(rank=rank, alpha=rank * getattr(parts[owner], ALPHA_RATIO)):
            raise ConfigError(unlike, path=place if saved.rank != rank else (owner, "params", ALPHA_RATIO))

    def billed_hours(self) -> float | None:
        """The most that its training is billed for by time; None where it is not. An installed backend need not know the word."""
        tell = getattr(self.backend_config(), "billed_hours", None)
        found: float | None = tell(self.algorithm_config()) if tell is not None else None
        return found

    def algorithm_config(self) -> BaseModel:
        """The algorithm's own Config, validated. Raises ConfigError with the path of the field."""
        config: BaseModel = validated(algorithms.get(self.algorithm.kind).Config, self.algorithm.params, ("algorithm", "params"))
        return config

    def backend_config(self) -> BaseModel:
        """The backend's own Config, validated. Raises ConfigError with the path of the field."""
        config: BaseModel = validated(backends.get(self.backend.kind).Config, self.backend.params, ("backend", "params"))
        return config


def check_pair(algorithm: Any, settings: BaseModel, backend: Any, chosen: BaseModel, model: ModelConfig) -> None:
    """What algorithm and backend, as classes, have against each other; an installed one need not know the words. settings,
    chosen: of the one and of the other. Raises ConfigError."""
    if (check_backend := getattr(algorithm, "check_backend", None)) is not None:
        check_backend(settings, backend)
    if not uses_backend(algorithm):
        return
    if learns_from_samples(algorithm) and (check_sampling := getattr(backend, "check_sampling", None)) is not None:
        check_sampling(chosen)
    if (check_algorithm := getattr(backend, "check_algorithm", None)) is not None:
        check_algorithm(settings, chosen, model)


@contextmanager
def below(*place: str | int) -> Iterator[None]:
    """A ConfigError from inside says where it lies as seen from outside: below `place`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error), path=(*place, *error.path)) from None


def validated(config_class: type[ConfigT], values: dict[str, Any], path: tuple[str | int, ...] = ()) -> ConfigT:
    """Raises ConfigError: a sentence per mistake, and the path of the first."""
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(sentences(error, path)), path=(*path, *error.errors()[0]["loc"])) from None


def sentences(error: ValidationError, path: Iterable[str | int] = ()) -> list[str]:
    """One readable sentence per mistake: where, what was found, what is expected."""
    lines = []
    for mistake in error.errors():
        where = ".".join(str(part) for part in (*path, *mistake["loc"])) or "config"
        found = mistake.get("input")
        shown = f" (found {found!r})" if isinstance(found, str | int | float | bool) else ""
        lines.append(f"{where}: {message_of(mistake)}{shown}")
    return lines


def message_of(mistake: Mapping[str, Any]) -> str:
    """What pydantic says of one mistake, in words for whoever typed it."""
    if mistake["type"] == "extra_forbidden":
        return "There is no setting of this name here"
    choice = mistake.get("ctx") or {}  # by its kind, which pydantic calls a tag
    by = str(choice.get("discriminator")).strip("'")
    if mistake["type"] == "union_tag_invalid":
        return f"There is no {by} {choice['tag']!r}. Choose one of: {choice['expected_tags']}"
    if mistake["type"] == "union_tag_not_found":
        return f"It does not say its {by}"
    return str(mistake["msg"]).removeprefix("Value error, ")
