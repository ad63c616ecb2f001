"""What the API takes and gives for sweeps: the body of a run, and a matrix."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from ninja import Schema
from pydantic import Field, ValidationError, create_model

from evsys_web.api.pagination import PageQuery
from evsys_web.runs.chunks import plain
from evsys_web.runs.schemas import DatasetChoice, RangeOut, RowId, RunFields, refused, run_body
from evsys_web.sweeps.models import Sweep
from evsys_web.sweeps.results import Row, Table
from recipes.config import Settings
from recipes.sweep_config import Matrix, SweepConfig

OWN_FIELDS = {"project", "auto_resume"}


def sweep_body() -> type[RunFields]:
    """Made when it is needed, so that kinds of packages installed later count."""
    return create_model("SweepBody", __base__=run_body(), matrix=(Matrix, Field(description="What is tried: axes × seeds.")))


class _Envelope(Settings, extra="ignore"):
    """What of the body is not the sweep's own. The rest is judged with the values of the axes in it, not without them."""

    data: DatasetChoice
    project: RowId | None = None
    auto_resume: bool = False


class SweepRequest:
    """A checked create body."""

    def __init__(self, values: Any) -> None:
        """Raises Unprocessable for what belongs to no sweep, ConfigError naming axis and value."""
        try:
            envelope = _Envelope.model_validate(values)
        except ValidationError as error:
            raise refused(error) from None
        self.project_id, self.auto_resume = envelope.project, envelope.auto_resume
        self.config = SweepConfig.from_values({key: value for key, value in values.items() if key not in OWN_FIELDS})


class SweepQuery(PageQuery):
    project: RowId | None = Field(None, description="Only sweeps of this project.")


class TableQuery(Schema):
    metric: list[str] = Field(default_factory=list, max_length=6, description="Metrics to show; none for the headline.")
    sort: str = Field("", max_length=300, description='An axis or a metric; with "-" before it, the other way round.')


class ResultQuery(TableQuery):
    format: Literal["json", "csv"] = "json"


class SweepOut(Schema):
    id: int
    project_id: int
    name: str
    dataset: str = Field(alias="dataset_reference")
    created_at: datetime
    num_runs: int
    num_queued: int
    num_active: int
    num_completed: int
    num_failed: int = Field(description="Failed or crashed.")
    num_cancelled: int


class SweepRunOut(Schema):
    run_id: int
    combination: int = Field(description="Which values of the axes, from 0.")
    seed: int | None
    status: str

    @staticmethod
    def resolve_status(member: Any) -> str:
        return str(member.run.status)


class SweepDetail(SweepOut):
    config: dict[str, Any]
    runs: list[SweepRunOut]

    @staticmethod
    def resolve_runs(sweep: Sweep) -> list[Any]:
        return list(sweep.members.select_related("run").order_by("combination", "seed", "pk"))


class SpreadOut(Schema):
    n: int = Field(description="Completed runs that reported it.")
    mean: float | str = Field(description='"NaN" when one of them diverged.')
    deviation: float | None = Field(description="Sample standard deviation; null for a single run.")


class CombinationOut(Schema):
    values: dict[str, Any] = Field(description="By axis.")
    run_ids: list[int]
    num_completed: int
    num_failed: int
    num_cancelled: int
    num_live: int
    metrics: dict[str, SpreadOut | None]


class ResultsOut(Schema):
    metrics: list[str] = Field(description="Those shown.")
    offered: list[str] = Field(description="All that its completed runs reported.")
    rows: list[CombinationOut]


class SweepEstimateOut(Schema):
    """null is "not known"."""

    num_runs: int
    num_combinations: int
    num_seeds: int
    steps: int | None
    tokens: RangeOut | None
    seconds: RangeOut | None = Field(description="One run after the other.")
    dollars: RangeOut | None = Field(description="What hosts bill for all of it.")
    notes: list[str]


def results_of(table: Table) -> dict[str, Any]:
    return {"metrics": table.keys, "offered": table.offered, "rows": [_row(table, row) for row in table.rows]}


def _row(table: Table, row: Row) -> dict[str, Any]:
    spreads = zip(table.keys, row.spreads, strict=True)
    return {
        "values": row.values,
        "run_ids": [member.run_id for member in row.members],
        "num_completed": row.num_completed,
        "num_failed": row.num_failed,
        "num_cancelled": row.num_cancelled,
        "num_live": row.num_live,
        "metrics": {key: each and {**each._asdict(), "mean": plain(each.mean)} for key, each in spreads},
    }
