"""What the API takes and gives for benchmarks and eval runs. Bodies are drawn from EvalConfig and the registered verifiers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from ninja import Schema
from pydantic import Field, ValidationError, create_model

from evsys_web.api.pagination import PageQuery
from evsys_web.evals.models import Outcome, Status
from evsys_web.runs.schemas import DatasetChoice, RangeOut, RowId, choice_of, left_away, refused
from recipes.config import DataConfig, Settings
from recipes.eval_config import EvalConfig
from recipes.registry import backends, verifiers


class BenchmarkFields(Settings):
    name: str = Field(min_length=1, max_length=200, description="What people call it; once per project.")
    description: str = Field("", max_length=2000)
    dataset: str = Field(max_length=300, description="A dataset version of tasks, as name@version; the name alone is the newest.")
    split: str | None = Field(None, min_length=1, max_length=64, description="Only the tasks of this split.")
    project: RowId | None = Field(None, description="Id of the project it belongs to; left away, your first one.")


def benchmark_body() -> type[BenchmarkFields]:
    """Made when it is needed, so that verifiers of packages installed later count."""
    return create_model("BenchmarkBody", __base__=BenchmarkFields, verifier=(choice_of(verifiers), ...))


def eval_body() -> type[Settings]:
    """An EvalConfig whose parts are told apart by kind, and where it belongs."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in EvalConfig.model_fields.items()
        if name not in ("data", "verifier", "backend")
    }
    fields |= {
        "benchmark": (RowId | None, Field(None, description="Id of a benchmark: brings tasks and verifier.")),
        "data": (DatasetChoice | None, Field(None, description="Tasks, where no benchmark is named.")),
        "verifier": (choice_of(verifiers) | None, Field(None, description="With `data`: what decides whether a reply is right.")),
        "backend": (choice_of(backends), left_away("local")),
        "project": (RowId | None, Field(None, description="Id of the project; left away, the benchmark's, or your first one.")),
        "auto_resume": (bool, Field(False, description="After a lost worker, go on unasked.")),
    }
    return create_model("EvalBody", __base__=Settings, **fields)


OWN_FIELDS = {"benchmark", "project", "auto_resume"}


class EvalRequest:
    """A checked create body."""

    def __init__(self, values: Any) -> None:
        """Raises Unprocessable with one error per field, ConfigError for what fits no registered kind."""
        try:
            body: Any = eval_body().model_validate(values)
        except ValidationError as error:
            raise refused(error) from None
        self.project_id: int | None = body.project
        self.benchmark_id: int | None = body.benchmark
        self.auto_resume: bool = body.auto_resume
        self.dataset: str | None = body.data.dataset if body.data is not None else None
        given = body.model_dump(mode="json", exclude_unset=True, exclude=OWN_FIELDS)
        given = {name: value for name, value in given.items() if value is not None}
        self.verifier: dict[str, Any] = given.get("verifier") or {"kind": "exact_match"}
        given.setdefault("data", DataConfig(dataset="benchmark").model_dump(exclude_none=True))
        self.config = EvalConfig.from_values(given)


class BenchmarkOut(Schema):
    id: int
    project_id: int
    name: str
    description: str
    dataset: str = Field(alias="dataset_reference")
    dataset_version_id: int | None
    split: str = Field(description="Only the tasks of this split; empty for all.")
    verifier: dict[str, Any]
    num_tasks: int
    created_at: datetime


class EvalEstimateOut(Schema):
    """null is "not known"; where it is not certain, a range."""

    num_tasks: int
    num_attempts: int
    prompt_tokens: RangeOut | None = Field(description="Read; attempts at a task may share the reading of its prompt or not.")
    sampled_tokens: RangeOut = Field(description="Said in replies.")
    seconds: RangeOut | None = Field(description="Of the eval alone; it may have to wait for a worker.")
    dollars: RangeOut | None = Field(description="What the host bills, by a dated list; null also where nothing is billed.")
    notes: list[str]


class EvalOut(Schema):
    """An eval run in a list."""

    id: int
    project_id: int
    name: str
    status: str
    model: str = Field(alias="model_label")
    benchmark_id: int | None
    checkpoint_id: int | None
    dataset: str = Field(alias="dataset_reference")
    verifier: str = Field(alias="verifier_kind")
    k: int = Field(description="Attempts per task.")
    is_imported: bool
    source: str
    attempt: int = Field(description="How often a worker took it up.")
    num_tasks: int
    num_attempts: int = Field(description="Tasks × k.")
    num_done: int = Field(description="Attempts with a verdict.")
    num_errors: int = Field(description="Attempts that ended in an error; never counted as wrong.")
    num_leaked: int = Field(description="Tasks that trained the model; left out of avg and of the summary's numbers.")
    progress: float | None = Field(description="Share of the attempts made, in [0, 1].")
    avg: dict[str, Any] | None = Field(description="Share right with its 95 % interval, clustered by task.")
    stop_requested: int
    error_type: str
    error: str
    cloned_from_id: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @staticmethod
    def resolve_avg(run: Any) -> dict[str, Any] | None:
        found: dict[str, Any] | None = run.summary.get("avg")
        return found


class EvalDetail(EvalOut):
    config: dict[str, Any]
    summary: dict[str, Any] = Field(description="avg, pass@k and pass^k with their intervals; empty while there is no verdict.")
    leaks: dict[str, Any] = Field(description="Tasks that trained the model: how many, from which runs, and what is not known.")
    last_seq: int


class TaskOut(Schema):
    position: int = Field(description="From 1, in the benchmark's order.")
    task_id: str
    prompt: str
    answer: Any = None
    outcome: str
    n: int = Field(description="Attempts with a verdict.")
    num_correct: int
    num_errors: int
    sum_reward: float
    accuracy: float | None
    num_tokens: int
    is_leaked: bool = Field(description="The model was trained on it; it counts for nothing.")


class AttemptOut(Schema):
    attempt: int
    reward: float | None
    is_correct: bool | None
    signals: dict[str, Any]
    info: dict[str, Any]
    messages: list[Any]
    num_prompt_tokens: int
    num_tokens: int
    seconds: float
    stop_reason: str
    error: str
    error_kind: str
    created_at: datetime


class EvalEventOut(Schema):
    seq: int
    at: datetime
    level: str
    message: str


class EvalQuery(PageQuery):
    status: list[Status] = Field(default_factory=list, description="Only runs in one of these states.")
    project: RowId | None = Field(None, description="Only runs of this project.")
    benchmark: RowId | None = Field(None, description="Only runs of this benchmark.")


class TaskQuery(PageQuery):
    outcome: list[Outcome] = Field(default_factory=list, description="Only tasks with one of these outcomes.")
    with_errors: bool = Field(False, description="Only tasks of which an attempt ended in an error.")
    leaked: bool | None = Field(None, description="Only tasks that trained the model, or (false) only the others.")
    sort: Literal["position", "-position", "accuracy", "-accuracy"] = Field(
        "position",
        description="Order; - in front for descending. Tasks without a verdict have no accuracy and are left out of that order.",
    )


class AttemptQuery(PageQuery):
    limit: int = Field(16, ge=1, le=64, description="Most attempts to return; each holds its conversation.")


class CompareQuery(Schema):
    a: RowId = Field(description="Id of the eval run that is compared with.")
    b: RowId = Field(description="Id of the eval run that is judged: a positive difference means that b is better.")
