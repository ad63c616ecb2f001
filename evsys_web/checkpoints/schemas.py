"""What the API takes and gives for checkpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from ninja import Schema
from pydantic import Field

from evsys_web.api.pagination import PageQuery
from evsys_web.checkpoints.dependents import resume_warning, why_kept
from evsys_web.checkpoints.models import Destination, Weights
from evsys_web.checkpoints.scores import Scored
from evsys_web.runs.downloads import files_of
from evsys_web.runs.models import Checkpoint
from evsys_web.runs.schemas import EXPIRES, RowId


class ScoreOut(Schema):
    """The newest completed eval of a checkpoint."""

    eval_id: int
    benchmark_id: int | None
    k: int = Field(description="Attempts per task.")
    avg: dict[str, Any] | None = Field(description="Share right with its 95 % interval, clustered by task.")


class FileOut(Schema):
    name: str = Field(description="As the download takes it.")
    num_bytes: int


class ScoredCheckpoint(Schema):
    """A checkpoint in a list."""

    id: int
    run_id: int
    run: str = Field(description="The run's name.")
    project_id: int
    name: str
    step: int
    model: str
    sampler_uri: str
    state_uri: str
    metrics: dict[str, Any]
    num_bytes: int | None = Field(description="null for weights kept elsewhere.")
    score: ScoreOut | None = Field(description="null while there is no completed eval (on the asked benchmark).")
    created_at: datetime
    expires_at: datetime | None = Field(description=EXPIRES)

    @classmethod
    def of(cls, scored: Scored) -> dict[str, Any]:
        checkpoint, newest = scored.checkpoint, scored.newest_eval
        columns = ("id", "run_id", "name", "step", "sampler_uri", "state_uri", "metrics", "created_at", "expires_at")
        score = newest and {
            "eval_id": newest.pk,
            "benchmark_id": newest.benchmark_id,
            "k": newest.k,
            "avg": newest.summary.get("avg"),
        }
        return {
            **{column: getattr(checkpoint, column) for column in columns},
            "run": checkpoint.run.name,
            "project_id": checkpoint.run.project_id,
            "model": checkpoint.run.model_name,
            "num_bytes": scored.num_bytes,
            "score": score,
        }


class DependentsOut(Schema):
    noun: str
    num_rows: int
    ids: list[int] = Field(description="The newest that you may see.")


class CheckpointDetail(ScoredCheckpoint):
    files: list[FileOut] = Field(description="What can be downloaded one by one; empty for weights kept elsewhere.")
    dependents: list[DependentsOut] = Field(description="What was made from it. It stays when the checkpoint is deleted.")
    why_kept: str = Field(description="Why it cannot be deleted now; empty when it can.")
    resume_warning: str = Field(description="What resuming its run would lose by a delete; empty when nothing.")

    @classmethod
    def facts_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        return {
            "files": [file._asdict() for file in files_of(checkpoint)],
            "why_kept": why_kept(checkpoint),
            "resume_warning": resume_warning(checkpoint),
        }


class CheckpointQuery(PageQuery):
    run: RowId | None = Field(None, description="Only checkpoints of this run.")
    project: RowId | None = Field(None, description="Only checkpoints of this project.")
    benchmark: RowId | None = Field(None, description="Scores on this benchmark only.")
    sort: Literal["created_at", "step"] = Field("created_at", description="Largest first.")


class ExportIn(Schema):
    """Merged weights to download, or a push to the hub."""

    destination: Destination
    weights: Weights = Field(Weights.ADAPTER, description="What is pushed; a download is always merged.")
    repository: str = Field("", max_length=200, description="For a push: owner/name; made when it is not there.")
    credential: str = Field("", max_length=200, description="For a push: name of the stored token.")
    is_private: bool = Field(True, description="For a push that makes the repository.")


class ExportOut(Schema):
    id: int
    checkpoint_id: int
    destination: str
    weights: str
    repository: str
    is_private: bool
    status: str
    phase: str
    num_bytes: int = Field(description="What the weights weigh, or will; 0 while unknown.")
    num_bytes_done: int
    is_ready: bool = Field(description="There are merged weights to download.")
    url: str = Field(description="Where it is on the hub.")
    error: str
    created_at: datetime
    finished_at: datetime | None
