"""What the API takes and gives for runs. The body of a create is drawn from the registered Configs: bounds, sentences and all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import yaml
from django.http import HttpRequest
from ninja import Schema
from pydantic import Field, ValidationError, create_model

from evsys_web.accounts.audit import NUL
from evsys_web.api.errors import FieldError, Unprocessable, dotted
from evsys_web.runs import metrics
from evsys_web.runs.chunks import plain
from evsys_web.runs.models import Status, TrainingRun
from recipes.config import DataConfig, ModelConfig, RunConfig, Settings, message_of
from recipes.registry import Registry, algorithms, backends

MAX_POINTS = 10_000
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]
CHOICES = {"algorithm", "backend", "training", "verifier"}
YAML_TYPES = {"application/yaml", "application/x-yaml", "text/yaml"}


class DatasetChoice(DataConfig):
    """Rows come from the dashboard's own datasets."""

    path: None = None
    dataset: str = Field(max_length=300, description="A dataset version, as name@version; the name alone means the newest.")


class RunFields(Settings):
    """A run as YAML or JSON: the same text that `config.yaml` gives back, and where it belongs."""

    version: Literal[1] = 1
    name: str = Field("run", min_length=1, max_length=200, description="What people call this run.")
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    data: DatasetChoice
    project: RowId | None = Field(None, description="Id of the project it belongs to; left away, your first one.")
    auto_resume: bool = Field(False, description="After a lost worker, go on from the last checkpoint unasked.")


def left_away(kind: str) -> Any:
    """The field for a choice that need not be made."""
    default = {"kind": kind}
    return Field(default=default, validate_default=True, description=f"Left away: {kind}.", examples=[default])


def choice_of(registry: Registry) -> Any:
    """{kind, params} for each registered kind, told apart by `kind`."""
    choices = []
    for kind in registry.kinds():
        config = registry.get(kind).Config
        params = Field(default_factory=config, description="Its settings.")
        name = f"{registry.noun.title()}_{kind}"
        fields: Any = {"kind": (Literal[kind], ...), "params": (config, params)}
        choices.append(create_model(name, __base__=Settings, **fields))
    return Annotated[reduce(or_, choices), Field(discriminator="kind")] if len(choices) > 1 else choices[0]


def run_body() -> type[RunFields]:
    """Made when it is needed, so that kinds of packages installed later count."""
    return create_model(
        "RunBody",
        __base__=RunFields,
        algorithm=(choice_of(algorithms), left_away("sft")),
        backend=(choice_of(backends), left_away("local")),
    )


class RunRequest:
    """A checked create body."""

    def __init__(self, values: Any) -> None:
        """Raises Unprocessable with one error per field, paths such as algorithm.params.learning_rate."""
        try:
            body = run_body().model_validate(values)
        except ValidationError as error:
            raise refused(error) from None
        self.project_id = body.project
        self.auto_resume = body.auto_resume
        self.config = RunConfig.from_values(body.model_dump(mode="json", exclude_unset=True, exclude={"project", "auto_resume"}))


class PlainLoader(yaml.SafeLoader):
    """Without aliases: a few hundred bytes of them unfold to gigabytes."""

    def compose_node(self, parent: Any, index: int) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def read_body(request: HttpRequest) -> Any:
    """The body as YAML if it says so, else as JSON. Raises Unprocessable with the place of the mistake."""
    try:
        is_yaml = request.content_type in YAML_TYPES
        values = yaml.load(request.body.decode(), PlainLoader) if is_yaml else json.loads(request.body)  # nosec B506 # a SafeLoader
        if NUL.search(json.dumps(values, default=str)):
            raise ValueError("it holds a NUL character")
        return values
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise _unreadable(f"The body is not YAML{where}: {error.problem}.") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise _unreadable(f"The body cannot be read: {error}.") from None


def _unreadable(message: str) -> Unprocessable:
    return Unprocessable(message, FieldError(field="", message=message, rule="syntax"))


def refused(error: ValidationError) -> Unprocessable:
    mistakes = [
        FieldError(field=dotted(_path(each["loc"])), message=message_of(each), rule=each["type"]) for each in error.errors()
    ]
    first = mistakes[0]
    summary = f"{first.field}: {first.message}" if len(mistakes) == 1 else f"{len(mistakes)} values were refused; see errors."
    return Unprocessable(summary, *mistakes)


def _path(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Without the kind that pydantic puts between a choice and its fields."""
    inside = range(1, len(loc) - 1)
    return tuple(part for place, part in enumerate(loc) if place not in inside or loc[place - 1] not in CHOICES)


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `overrides` laid over, mapping by mapping. Another kind of algorithm or backend brings its own settings."""
    result = dict(values)
    for key, value in overrides.items():
        old = result.get(key)
        other_kind = (
            isinstance(old, dict) and isinstance(value, Mapping) and value.get("kind", old.get("kind")) != old.get("kind")
        )
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) and not other_kind else value
    return result


class RunOut(Schema):
    """A run in a list."""

    id: int
    project_id: int
    name: str
    status: str
    algorithm: str
    backend: str
    model: str = Field(alias="model_name")
    dataset: str = Field(alias="dataset_reference")
    is_external: bool
    attempt: int
    step: int
    num_steps: int = Field(description="0 while unknown.")
    progress: float | None = Field(description="Share of the steps done, in [0, 1].")
    stop_requested: int = Field(description="0 no, 1 after the step, 2 at once.")
    error_type: str
    error: str
    cloned_from_id: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RunDetail(RunOut):
    config: dict[str, Any]
    metrics: dict[str, float | str] = Field(description='The last value of each key; "NaN" and "Infinity" are strings.')
    last_seq: int

    @staticmethod
    def resolve_metrics(run: TrainingRun) -> dict[str, float | str]:
        return {key: plain(value) for key, value in metrics.latest(run).items()}


class PresetOut(Schema):
    """What the form starts from, where it differs from the algorithm's defaults."""

    params: dict[str, Any]
    why: str = Field(description="One sentence; empty when nothing is recommended.")


class RangeOut(Schema):
    low: float
    high: float


class EstimateOut(Schema):
    """null is "not known"; where it is not certain, a range."""

    num_rows: int
    steps: int | None
    rows_seen: int | None = Field(description="Over all epochs.")
    tokens: RangeOut | None
    trained_tokens: RangeOut | None
    prefill_tokens: RangeOut | None = Field(description="Read without a gradient; null where none are.")
    sampled_tokens: RangeOut | None = Field(description="Drawn from the model; null where none are.")
    seconds: RangeOut | None = Field(description="Of training alone; it may have to wait for a worker.")
    dollars: RangeOut | None = Field(description="What the host bills, by a dated list; null also where nothing is billed.")
    notes: list[str]


class SeriesOut(Schema):
    x: list[float]
    y: list[float | str] = Field(description="Last value of each bucket.")
    min: list[float | str]
    max: list[float | str]
    count: int = Field(description="How many points there are in truth.")
    non_finite: list[dict[str, float | str]]
    num_non_finite: int


class MetricsOut(Schema):
    series: dict[str, SeriesOut]
    last_seq: int


class RolloutOut(Schema):
    attempt: int = Field(description="From 0.")
    reward: float | None = Field(description="null where nobody judges, as in self-distillation.")
    advantage: float | None = Field(description="What its tokens were reinforced by; 0 taught nothing.")
    is_correct: bool | None
    stop_reason: str | None
    num_tokens: int
    metrics: dict[str, float | str]
    messages: list[dict[str, Any]] = Field(description="The whole conversation; long texts are cut.")
    demonstration: str | None = Field(None, description="What the teacher read in place of the question.")


class RolloutGroupOut(Schema):
    task_id: str
    rollouts: list[RolloutOut]


class RolloutsOut(Schema):
    step: int
    num_groups: int = Field(description="Groups of the step; of them `groups` were kept.")
    num_rollouts: int
    previous: int | None = Field(description="The step before it that has rollouts.")
    following: int | None
    groups: list[RolloutGroupOut]


class EventOut(Schema):
    seq: int
    at: datetime
    kind: str
    level: str
    step: int
    message: str


EXPIRES = "When the provider that keeps the weights removes them; null: they stay."


class CheckpointOut(Schema):
    id: int
    name: str
    step: int
    state_uri: str
    sampler_uri: str
    metrics: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None = Field(description=EXPIRES)
    files: list[str] = Field(description="What can be downloaded one by one; empty for weights kept elsewhere.")


class ExternalRunIn(Schema):
    name: str = Field(min_length=1, max_length=200, description="What people call this run.")
    project: RowId | None = Field(None, description="Id of the project; left away, your first one.")
    num_steps: int = Field(0, ge=0, le=10**12, description="Steps it will take; 0 if unknown.")
    config: dict[str, Any] = Field(default_factory=dict, description="Its settings, for people to read; no secrets.")


class PointIn(Schema):
    step: int = Field(ge=0, le=10**12, description="Completed optimizer steps.")
    values: dict[str, float] = Field(min_length=1, max_length=500, description='Numbers by key; "NaN" and "Infinity" as strings.')
    at: datetime | None = Field(None, description="When; left away, now.")


class LoggedOut(Schema):
    accepted: int = Field(description="Values that were new.")
    repeated: int = Field(description="Values whose step and key had one already; the first stays.")
    last_seq: int


class FinishIn(Schema):
    status: Literal["completed", "failed", "crashed", "cancelled"] = str(Status.COMPLETED)  # type: ignore[assignment]
    error: str = Field("", max_length=5000, description="What went wrong, in a sentence.")
