"""What a managed run needs of its algorithm, what it writes down before it orders anything, and how it can end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from recipes.errors import CheckpointError
from recipes.managed_jobs import JobKind, JobOrder, ManagedJobs
from recipes.resources import fresh_name
from recipes.row_order import Split
from recipes.stores import write_atomically
from recipes.types import Row, RunContext

JOB_FILE = "managed_job.json"


class Watch(Protocol):
    """The part of an algorithm's Config that says how long to wait for what."""

    poll_seconds: float
    queue_seconds: float
    no_progress_seconds: float


class ManagedAlgorithm(Protocol):
    """What a run needs to know of its algorithm. `saves_between`: checkpoints were ordered before the end."""

    name: ClassVar[str]
    kind: ClassVar[JobKind]

    @property
    def watch(self) -> Watch: ...

    @property
    def saves_between(self) -> bool: ...

    def outage_seconds(self, ctx: RunContext) -> float:
        """How long the service may be out of reach."""
        ...

    def connect(self, ctx: RunContext, wait: Callable[[float], None], account: str) -> ManagedJobs:
        """account: whose the run's job is, empty for one that is not ordered yet. Raises ConfigError, and BackendError also for
        a key that leads elsewhere."""
        ...

    def split(self, ctx: RunContext, report: Callable[[str, str], None]) -> Split:
        """What is learnt from, and what is measured on. Raises DataError."""
        ...

    def num_steps(self, num_rows: int) -> int: ...

    def write(self, path: Path, rows: Sequence[Row]) -> int:
        """The file that is uploaded; gives the number of its rows. Raises DataError."""
        ...

    def order(self, ctx: RunContext, record: JobRecord, *, account: str, is_measured: bool) -> JobOrder: ...

    def check(self, ctx: RunContext, jobs: ManagedJobs) -> None:
        """Before anything is made there. Raises ConfigError, BackendError."""
        ...

    def weights_uri(self, account: str, model_id: str) -> str: ...


@dataclass(frozen=True)
class JobRecord:
    """managed_job.json: the ids of all that the run may make there, and what the run was made of. account: where they are made;
    empty until the key has led there, which is before anything is made. is_ordered: the service has said that it has the job."""

    kind: str
    job: str
    model: str
    dataset: str
    evaluation: str
    fingerprint: dict[str, Any] = field(default_factory=dict)
    account: str = ""
    is_ordered: bool = False

    @classmethod
    def make(cls, kind: JobKind, run_id: str, fingerprint: dict[str, Any]) -> JobRecord:
        job = fresh_name(run_id)
        return cls(kind, job, job, f"{job}-train", f"{job}-eval", fingerprint)

    @classmethod
    def read(cls, path: Path) -> JobRecord | None:
        """None where there is none. Raises CheckpointError for one that cannot be read."""
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{each.name: found[each.name] for each in fields(cls) if each.name in found})
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path.name} of this run cannot be read ({error}), so its job cannot be found again."
            ) from None

    def write(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self), indent=1) + "\n")


class Stopped(Exception):
    """A stop was asked for before there was a job to cancel, or while its end was awaited."""


class Ending(NamedTuple):
    status: Literal["completed", "failed", "cancelled"]
    error: str | None = None
    cause: Exception | None = None
