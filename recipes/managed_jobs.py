"""Training that a service runs as a job of its own: what an algorithm asks of whoever speaks to the service, and its words.

Names are whole resource names as the service writes them. Every method raises BackendError, with a sentence, for what the service
refuses or fails at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from recipes.resources import Resource


class JobKind(StrEnum):
    SFT = "sft"
    DPO = "dpo"
    RFT = "rft"


class JobPhase(StrEnum):
    """What a state means for whoever waits. PAUSED: by the service, until somebody acts there. UNKNOWN: a word that this program
    has not heard; taken for work under way."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    ENDED_EARLY = "ended_early"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in (JobPhase.SUCCEEDED, JobPhase.ENDED_EARLY, JobPhase.FAILED, JobPhase.CANCELLED)


class JobStanding(NamedTuple):
    """state: the service's word. message: its sentence, if any. percent: done, 0 to 100. tokens: read so far. cost: as text."""

    state: str
    phase: JobPhase
    message: str = ""
    percent: int | None = None
    tokens: int | None = None
    cost: str = ""


class JobCheckpoint(NamedTuple):
    """step: None where the name does not tell. created: sorts by time. promotable: it can become a model."""

    name: str
    step: int | None
    created: str
    promotable: bool


@dataclass(frozen=True)
class JobOrder:
    """All that a job is created from. dataset, evaluation: dataset ids. base_model xor warm_start. renderer: a hub id.
    settings: the vendor's fields by
    the SDK's names; loss: the same of the loss, for kinds that have one. evaluator, sampling, further: of kinds that sample, the
    same of how they judge, how they sample, and of the job itself."""

    kind: JobKind
    job_id: str
    title: str
    dataset: str
    output_model: str
    evaluation: str | None = None
    base_model: str | None = None
    warm_start: str | None = None
    renderer: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    evaluator: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, Any] = field(default_factory=dict)


class ManagedJobs(Protocol):
    """place: the service as sentences name it. account: whose resources they are."""

    place: str
    account: str

    def check_model(self, name: str, *, rank: int, kind: JobKind) -> None:
        """Refuse a model that is not there or cannot be tuned so, before anything is made or paid."""
        ...

    def check_evaluator(self, name: str) -> None:
        """Refuse one that is not there, or not ready to judge."""
        ...

    def put_dataset(self, dataset_id: str, path: Path, *, num_rows: int, title: str) -> None:
        """Upload the file and wait until the service has it ready. Going on with one that was begun is fine."""
        ...

    def create(self, order: JobOrder) -> None:
        """A job of this id that is there already is taken for the one asked for if it is made of the same, else refused."""
        ...

    def look(self, kind: JobKind, job_id: str) -> JobStanding | None:
        """None: there is none of this id."""
        ...

    def metric_rows(self, kind: JobKind, job_id: str) -> list[dict[str, Any]] | None:
        """All that the job has measured so far, as it wrote it down; None while there is nothing. Asked after a `look`. Lines
        that are no JSON object are left out."""
        ...

    def cancel(self, kind: JobKind, job_id: str) -> None: ...

    def resume(self, kind: JobKind, job_id: str) -> None: ...

    def checkpoints(self, kind: JobKind, job_id: str) -> list[JobCheckpoint]:
        """Oldest first."""
        ...

    def promote(self, checkpoint: str, output_model: str, base_model: str) -> None:
        """Make a model of a checkpoint; it may take the service a while until `has_model` sees it."""
        ...

    def has_model(self, model_id: str) -> bool: ...

    def delete(self, resource: Resource) -> None:
        """What is not there any more is deleted already."""
        ...

    def close(self) -> None: ...
