"""What the API takes and gives for curation. Settings are a CurationSettings as it stands."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ninja import Schema
from pydantic import Field

from evsys_web.api.pagination import PageQuery
from evsys_web.datasets.splits import TRAIN, VALIDATION
from evsys_web.runs.schemas import RowId
from recipes.config import Settings
from recipes.curation import CurationSettings


class PreviewIn(Settings):
    eval_runs: list[RowId] = Field(min_length=1, max_length=50, description="Ids of eval runs of one project, pooled by task.")
    settings: CurationSettings = Field(default_factory=CurationSettings, description="Filter, selection and holdout.")


class PreviewQuery(Schema):
    wait: bool = Field(True, description="False answers 202 with how far it is while a large eval must be read first.")


class ReadingOut(Schema):
    """Ask again: the attempts are being read."""

    num_read: int = Field(description="Attempts read so far.")
    num_attempts: int = Field(description="Of so many.")


class CurationIn(PreviewIn):
    name: str = Field(min_length=1, max_length=100, description="Dataset that gets the rows as a new version.")
    description: str = Field("", max_length=2000, description="Of the dataset, when it is made.")
    split: str = Field(TRAIN, max_length=64, description="Name of the split of the rows; runs learn from train by themselves.")
    val_split: str = Field(
        VALIDATION, max_length=64, description="Name of the split held out; runs measure their loss on validation by themselves."
    )


class FilterIn(Settings):
    name: str = Field(min_length=1, max_length=200, description="What people call it; once per project.")
    settings: CurationSettings = Field(default_factory=CurationSettings, description="What it stands for.")
    project: RowId | None = Field(None, description="Id of the project; left away, your first one.")


class BinOut(Schema):
    low: float
    high: float = Field(description="Equal to low for the bins of exactly the least and the most.")
    num_tasks: int
    num_kept: int


class SampleOut(Schema):
    task_id: str
    prompt: str
    url: str = Field(description="The page of the task.")
    n: int
    n_correct: int
    avg: float
    reason: str = Field(description="The condition that decides, with the values of the names in it.")


class SideOut(Schema):
    eval_run_id: int
    attempt: int = Field(description="From 0.")
    score: float
    text: str = Field(description="What was said beyond the common prompt, shortened.")
    url: str


class PairOut(Schema):
    task_id: str
    prompt: str
    chosen: SideOut
    rejected: SideOut


class PreviewOut(Schema):
    counts: dict[str, int] = Field(description="Tasks kept and dropped, rows, tokens, splits, and what was left out and why.")
    skipped: dict[str, int] = Field(description="Attempts that could not be rows, by reason.")
    holdout_error: str = Field(description="Why these settings cannot be published; empty when they can.")
    histogram: list[BinOut] = Field(description="Tasks by avg.")
    inside: list[SampleOut] = Field(description="A few tasks that are kept, from the lowest avg to the highest.")
    outside: list[SampleOut] = Field(description="A few that are not.")
    pairs: list[PairOut] = Field(description="A few of the pairs, where rows are pairs.")
    metrics: list[str] = Field(description="What `metric` may name.")


class FilterOut(Schema):
    id: int
    project_id: int
    name: str
    settings: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class CurationOut(Schema):
    id: int
    project_id: int
    name: str
    settings: dict[str, Any]
    sources: list[dict[str, Any]] = Field(description="The eval runs as they were when it was published.")
    dataset: str = Field(alias="dataset_reference")
    dataset_version_id: int | None = Field(description="Null when the version was deleted since.")
    counts: dict[str, Any]
    created_at: datetime
    created_by: str | None

    @staticmethod
    def resolve_created_by(curation: Any) -> str | None:
        return curation.created_by.username if curation.created_by else None


class PublishedOut(Schema):
    curation: CurationOut
    created: bool = Field(description="False when the dataset had exactly these rows already: this is that version.")


class ProjectQuery(PageQuery):
    project: RowId | None = Field(None, description="Only those of this project.")


class CheckpointLearnedOut(Schema):
    id: int
    step: int
    name: str


class LearnerOut(Schema):
    run_id: int = Field(validation_alias="run.pk")
    name: str = Field(validation_alias="run.name")
    status: str = Field(validation_alias="run.status")
    went_on_from_run_id: int | None = Field(description="Null: trained on the rows. Else it began from a checkpoint of that run.")
    checkpoints: list[CheckpointLearnedOut]

    @staticmethod
    def resolve_went_on_from_run_id(learner: Any) -> int | None:
        return learner.through.pk if learner.through else None


class PlaceOut(Schema):
    dataset: str = Field(validation_alias="row.version.reference")
    dataset_version_id: int = Field(validation_alias="row.version_id")
    row: int = Field(validation_alias="row.position", description="From 0.")
    split: str = Field(validation_alias="row.split", description="Of the version that the row is in.")
    side: str = Field(validation_alias="row.side", description="Of a pair: chosen or rejected; else empty.")
    score: float | None = Field(validation_alias="row.score")
    curation_id: int | None = Field(validation_alias="curation.pk", default=None)
    runs: list[LearnerOut] = Field(validation_alias="learners", description="Those that learned from this split.")


class AttemptLineageOut(Schema):
    eval_run_id: int
    model: str
    checkpoint_id: int | None
    task_id: str
    attempt: int
    datasets: list[PlaceOut] = Field(description="Rows that came from this attempt, and what was trained on them.")


class SourceOut(Schema):
    eval_run_id: int | None = Field(description="Null when it was deleted since; the row's metadata still names it.")
    model: str | None
    checkpoint_id: int | None = Field(description="Of the model, when it was one of this dashboard's.")
    task_position: int | None
    task_id: str | None
    attempt: int
    score: float | None


class RowLineageOut(SourceOut):
    row: int = Field(description="From 0.")
    split: str
    rejected: SourceOut | None = Field(description="Where the other side of a pair comes from; null where the row is no pair.")
