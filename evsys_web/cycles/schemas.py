"""What the API takes and gives for cycles. The body of a create is drawn from CycleConfig and everything registered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ninja import Schema
from pydantic import Field, ValidationError, create_model

from evsys_web.api.pagination import PageQuery
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.models import Cycle, CycleRound, Status
from evsys_web.runs.schemas import RowId, choice_of, left_away, refused
from recipes.config import Settings
from recipes.cycle_config import CycleConfig, TasksChoice
from recipes.registry import algorithms, backends, verifiers

PARTS = ("learn", "judge", "backend", "training")
OWN_FIELDS = {"project"}


def cycle_body() -> type[Settings]:
    """A CycleConfig whose parts are told apart by kind, and where it belongs. Made when it is needed, so that kinds of packages
    installed later count."""
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in CycleConfig.model_fields.items() if name not in PARTS
    }
    fields |= {
        **{side: (_tasks_body(), CycleConfig.model_fields[side]) for side in ("learn", "judge")},
        "backend": (choice_of(backends), left_away("local")),
        "training": (choice_of(algorithms), left_away("sft")),
        "project": (RowId | None, Field(None, description="Id of the project; left away, your first one.")),
    }
    return create_model("CycleBody", __base__=Settings, **fields)


def _tasks_body() -> type[Settings]:
    """A TasksChoice without files, which the server cannot read, with its verifier told apart by kind."""
    return create_model(
        "TasksBody",
        __base__=TasksChoice,
        path=(None, Field(None, description="Not here: upload the tasks and name the dataset.")),
        verifier=(choice_of(verifiers) | None, Field(None, description=TasksChoice.model_fields["verifier"].description)),
    )


class CycleRequest:
    """A checked create body."""

    def __init__(self, values: Any) -> None:
        """Raises Unprocessable with one error per field, ConfigError for what contradicts itself."""
        try:
            body: Any = cycle_body().model_validate(_with_names(values))
        except ValidationError as error:
            raise refused(error) from None
        self.project_id: int | None = body.project
        self.config = CycleConfig.from_values(body.model_dump(mode="json", exclude_unset=True, exclude=OWN_FIELDS))


def _with_names(values: Any) -> Any:
    """A benchmark's id may be written as the number that it is."""
    if not isinstance(values, dict):
        return values
    sides = {
        side: {**choice, "benchmark": str(choice["benchmark"])}
        for side in ("learn", "judge")
        if isinstance(choice := values.get(side), dict) and type(choice.get("benchmark")) is int
    }
    return values | sides


class RoundOut(Schema):
    number: int
    eval_id: int | None = Field(alias="eval_run_id", description="The eval whose attempts were curated.")
    curation_id: int | None
    dataset: str = Field(description="The rows that were trained on, as name@version; empty before they are published.")
    run_id: int | None = Field(alias="training_run_id")
    checkpoint_id: int | None
    judged_id: int | None = Field(description="The eval on the held-out tasks.")
    avg: dict[str, Any] | None = Field(description="Share of the held-out attempts that are right, with its 95 % interval.")
    finding: dict[str, Any] = Field(
        description="How the held-out eval compares: to `baseline`, and to `reference`, the last round that gained "
        "(`reference_round`; 0 is the baseline). Empty until the round is judged."
    )
    gained: bool | None = Field(description="Whether the whole interval of the difference to the reference lies above zero.")
    started_at: datetime
    finished_at: datetime | None

    @staticmethod
    def resolve_dataset(round_: CycleRound) -> str:
        return str(round_.curation.dataset_reference) if round_.curation else ""

    @staticmethod
    def resolve_avg(round_: CycleRound) -> dict[str, Any] | None:
        return round_.judged.summary.get("avg") if round_.judged else None


class CycleOut(Schema):
    """A cycle in a list."""

    id: int
    project_id: int
    name: str
    status: str
    model: str = Field(alias="model_name")
    learn_id: int | None = Field(description="The benchmark that is learned from.")
    judge_id: int | None = Field(description="The held-out benchmark.")
    stage: str
    round_number: int = Field(description="0 before the first round.")
    num_rounds: int = Field(description="As many as there will be at most.")
    reason: str = Field(description="Why it is complete: rounds, target, no_gain, budget or no_rows; empty until it is.")
    num_tokens: int = Field(description="Sampled and trained on by the parts that are done.")
    num_seconds: float = Field(description="What the parts that are done have taken.")
    stop_requested: int
    error_type: str
    error: str
    cloned_from_id: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class CycleDetail(CycleOut):
    config: dict[str, Any]
    answer: str = Field(description="What came of it so far, in a sentence.")
    current_eval_id: int | None = Field(description="The eval it waits for.")
    current_run_id: int | None = Field(description="The training run it waits for.")
    baseline_id: int | None = Field(description="The eval on the held-out tasks before training.")
    baseline_avg: dict[str, Any] | None
    rounds: list[RoundOut]
    last_seq: int

    @staticmethod
    def resolve_answer(cycle: Cycle) -> str:
        return answer_of(cycle).sentence

    @staticmethod
    def resolve_baseline_avg(cycle: Cycle) -> dict[str, Any] | None:
        return cycle.baseline.summary.get("avg") if cycle.baseline else None

    @staticmethod
    def resolve_rounds(cycle: Cycle) -> list[CycleRound]:
        return list(cycle.rounds.all())


class CycleEventOut(Schema):
    seq: int
    at: datetime
    level: str
    message: str


class CycleQuery(PageQuery):
    status: list[Status] = Field(default_factory=list, description="Only cycles in one of these states.")
    project: RowId | None = Field(None, description="Only cycles of this project.")
