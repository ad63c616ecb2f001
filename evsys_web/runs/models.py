"""A training run is a row, and the row is the queue: whoever changes `status` by conditional update owns what follows.

The Celery message only hints that a row waits; it may be lost or doubled. A worker owns a run as long as `lease_owner` is its
own mark, and every write of a worker is conditional on that. Nothing outside this module writes `status`.

Everything a viewer can be shown of a live run (metric rows, events, checkpoints) takes its `seq` from the run's one counter,
so that one number says what a viewer has seen.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

from django.conf import settings
from django.db import connection, models
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Greatest
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.models import OwnedQuerySet, User
from evsys_web.runs.status import ACTIVE as ACTIVE
from evsys_web.runs.status import ENDED as ENDED
from evsys_web.runs.status import RESUMABLE
from evsys_web.runs.status import Standing as Standing
from evsys_web.runs.status import Status as Status
from evsys_web.runs.status import Stop as Stop
from recipes.config import RunConfig
from recipes.errors import DataError
from recipes.types import Row


class TrainingRunQuerySet(OwnedQuerySet):
    def newest_first(self) -> Self:
        return self.order_by("-created_at", "-pk")

    def active(self) -> Self:
        """Held by a worker."""
        return self.filter(status__in=ACTIVE)

    def lost(self) -> Self:
        """Held by a worker that has not been heard of for a whole lease."""
        return self.active().filter(lease_until__lt=now(), is_external=False)


class TrainingRun(models.Model):
    """One fine-tune. `step` counts completed optimizer steps; `last_seq` is the newest thing a viewer can be shown."""

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="runs")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="runs")
    name = models.CharField(max_length=200)
    dataset_version = models.ForeignKey(
        "datasets.DatasetVersion", on_delete=models.SET_NULL, null=True, blank=True, related_name="runs"
    )
    dataset_reference = models.CharField(max_length=300, blank=True, help_text="name@version; outlives the dataset itself.")
    config = models.JSONField(default=dict, help_text="A RunConfig, dumped.")
    is_external = models.BooleanField(default=False, help_text="Trained elsewhere; reports in through the API.")
    cloned_from = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="clones")
    submission_key = models.CharField(max_length=200, blank=True, editable=False, help_text="A form posted twice makes one run.")

    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT, editable=False)
    stop_requested = models.PositiveSmallIntegerField(choices=Stop, default=Stop.NONE, editable=False)
    hand_back = models.BooleanField(default=False, editable=False, help_text="The worker shuts down: save, back to the queue.")
    auto_resume = models.BooleanField(default=False, help_text="After a lost worker, go on from the last checkpoint unasked.")
    attempt = models.PositiveIntegerField(default=0, editable=False)
    lease_owner = models.CharField(max_length=200, blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)
    hinted_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="When a worker was last told of it.")

    step = models.PositiveBigIntegerField(default=0, editable=False)
    num_steps = models.PositiveBigIntegerField(default=0, editable=False, help_text="0 while unknown.")
    last_seq = models.PositiveBigIntegerField(default=0, editable=False)
    error_type = models.CharField(max_length=200, blank=True, editable=False)
    error = models.TextField(blank=True, editable=False, help_text="A sentence for the person who started it.")
    error_detail = models.TextField(blank=True, editable=False, help_text="Traceback, for staff.")
    created_at = models.DateTimeField(default=now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = TrainingRunQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["created_by", "submission_key"], condition=~Q(submission_key=""), name="one_run_per_submission"
            )
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project", "-created_at"]),
            models.Index(fields=["status", "lease_until"]),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("runs:detail", args=[self.pk])

    # what it is

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def can_stop(self) -> bool:
        return self.status in (Status.QUEUED, *ACTIVE) and not self.is_external

    @property
    def can_resume(self) -> bool:
        return self.status in RESUMABLE and not self.is_external

    @property
    def progress(self) -> float | None:
        """Share of the steps done, in [0, 1]; None while the number of steps is unknown."""
        return min(1.0, self.step / self.num_steps) if self.num_steps else None

    @property
    def algorithm(self) -> str:
        return str(self.config.get("algorithm", {}).get("kind", ""))

    @property
    def backend(self) -> str:
        return str(self.config.get("backend", {}).get("kind", ""))

    @property
    def model_name(self) -> str:
        return str(self.config.get("model", {}).get("name", ""))

    @property
    def output_dir(self) -> Path:
        """The run's own folder; user text never joins a path."""
        return Path(settings.RUNS_DIR) / str(self.pk)

    def load_config(self) -> RunConfig:
        """Validated again: the row may be older than the code. Raises ConfigError."""
        return RunConfig.from_values(self.config)

    def read_rows(self) -> list[Row]:
        """The rows it trains on. Raises DataError when they were deleted meanwhile."""
        if self.dataset_version is None:
            raise DataError(
                f"The dataset {self.dataset_reference} was deleted after this run was made. Clone the run and choose another one."
            )
        return list(self.dataset_version.read_rows())

    # how it changes: each is one conditional update, True when this caller won

    def start(self, worker: str) -> bool:
        """queued → starting, with a lease for this caller alone. False: another was faster, or it was cancelled."""
        return self._change(
            Q(status=Status.QUEUED),
            status=Status.STARTING,
            attempt=F("attempt") + 1,
            lease_owner=f"{worker}/{uuid.uuid4().hex[:12]}",
            lease_until=lease_end(),
            started_at=Coalesce("started_at", models.Value(now())),
            finished_at=None,
            hand_back=False,
        )

    def renew(self, *, step: int | None = None, num_seqs: int = 0) -> Standing:
        """Push the lease on and reserve `num_seqs` numbers (the last is `last_seq`). Call it inside the transaction that writes
        what the numbers are for. Does not touch a run that this object's lease no longer holds."""
        if not self.lease_owner:
            return Standing(held=False)
        until = connection.ops.adapt_datetimefield_value(lease_end())
        with connection.cursor() as cursor:
            cursor.execute(RENEW, [until, num_seqs, step, self.pk, self.lease_owner, *ACTIVE])
            found = cursor.fetchone()
        return Standing(True, found[0], found[1], bool(found[2])) if found else Standing(held=False)

    def look(self) -> Standing:
        """What `renew` would learn, without writing."""
        mine = TrainingRun.objects.filter(pk=self.pk, lease_owner=self.lease_owner, status__in=ACTIVE)
        found = mine.values_list("last_seq", "stop_requested", "hand_back").first() if self.lease_owner else None
        return Standing(True, *found) if found else Standing(held=False)

    def run_begun(self, *, step: int, num_steps: int) -> bool:
        """starting → running, from this step on. A stop asked meanwhile keeps it stopping."""
        values = {"step": step, "num_steps": num_steps}
        return self._change_held(Q(status=Status.STARTING), status=Status.RUNNING, **values) or self._change_held(Q(), **values)

    def complete(self) -> bool:
        return self._end(Status.COMPLETED)

    def cancel(self) -> bool:
        """The worker stopped because it was asked to."""
        return self._end(Status.CANCELLED)

    def fail(self, error: str, *, error_type: str = "", detail: str = "") -> bool:
        """A foreseen end: the sentence says what to do."""
        return self._end(Status.FAILED, error=storable(error), error_type=error_type, error_detail=storable(detail))

    def crash(self, error: str, *, error_type: str = "", detail: str = "") -> bool:
        """An unforeseen end, seen by the worker itself."""
        return self._end(Status.CRASHED, error=storable(error), error_type=error_type, error_detail=storable(detail))

    def give_back(self) -> bool:
        """The worker shuts down: back to the queue, to go on from its last checkpoint."""
        return self._change_held(Q(), status=Status.QUEUED, hinted_at=None, **NO_LEASE)

    def declare_lost(self, error: str) -> bool:
        """Its worker fell silent. Back to the queue if that worker had announced its end, else crashed."""
        silent = Q(status__in=ACTIVE, lease_until__lt=now(), is_external=False)
        return self._change(
            silent & Q(hand_back=True, stop_requested=Stop.NONE), status=Status.QUEUED, hinted_at=None, **NO_LEASE
        ) or self._change(silent, status=Status.CRASHED, error=error, error_type="WorkerLost", finished_at=now(), **NO_LEASE)

    def queue(self, *, announced: bool = True) -> bool:
        """draft → queued, and again from any end but completed; what went wrong before is cleared. announced: the caller sends
        the message; otherwise the next sweep does."""
        return self._change(
            Q(status__in=(Status.DRAFT, *RESUMABLE), is_external=False),
            status=Status.QUEUED,
            stop_requested=Stop.NONE,
            hand_back=False,
            hinted_at=now() if announced else None,
            finished_at=None,
            error="",
            error_type="",
            error_detail="",
        )

    def ask_back(self) -> bool:
        """Its worker shuts down: it is to save after this step and return to the queue."""
        return self._change(Q(status__in=ACTIVE), hand_back=True)

    def request_stop(self) -> bool:
        """A queued run is cancelled at once; a held one stops after its step, at the second request at once."""
        return (
            self._change(Q(status=Status.QUEUED), status=Status.CANCELLED, finished_at=now())
            or self._change(
                Q(status__in=(Status.STARTING, Status.RUNNING)), status=Status.STOPPING, stop_requested=Stop.AFTER_STEP
            )
            or self._change(Q(status=Status.STOPPING), stop_requested=Stop.NOW)
        )

    def hint(self, *, older_than: timedelta) -> bool:
        """Mark that a worker is being told of this queued run; False when somebody did so lately."""
        stale = Q(hinted_at=None) | Q(hinted_at__lt=now() - older_than)
        return self._change(Q(status=Status.QUEUED) & stale, hinted_at=now())

    def report_in(self, *, step: int) -> bool:
        """A run trained elsewhere sent points up to this step."""
        return self._change(Q(is_external=True, status=Status.RUNNING), step=Greatest("step", models.Value(step)))

    def report_end(self, status: Status, *, error: str = "") -> bool:
        """A run trained elsewhere says how it ended."""
        return self._change(Q(is_external=True, status=Status.RUNNING), status=status, error=storable(error), finished_at=now())

    def next_seqs(self, count: int) -> int:
        """Reserve `count` numbers for a writer without a lease and return the first. Call it inside the writing transaction."""
        TrainingRun.objects.filter(pk=self.pk).update(last_seq=F("last_seq") + count)
        self.refresh_from_db(fields=["last_seq"])
        return self.last_seq - count + 1

    def _end(self, status: Status, **values: Any) -> bool:
        return self._change_held(Q(), status=status, finished_at=now(), **NO_LEASE, **values)

    def _change_held(self, condition: Q, **values: Any) -> bool:
        held = Q(status__in=ACTIVE, lease_owner=self.lease_owner)
        return bool(self.lease_owner) and self._change(condition & held, **values)

    def _change(self, condition: Q, **values: Any) -> bool:
        won = TrainingRun.objects.filter(condition, pk=self.pk).update(**values) == 1
        if won:
            self.refresh_from_db()
        return won


def storable(text: str) -> str:
    """PostgreSQL refuses NUL, and errors and events carry what a model or a library said."""
    return text.replace("\x00", "\ufffd")


NO_LEASE: dict[str, Any] = {"lease_owner": "", "lease_until": None}


# One statement that renews, reserves and reads what was asked; in the ORM it would be two, at four times the cost (0.6 ms).
RENEW = """UPDATE runs_trainingrun
SET lease_until = %s, last_seq = last_seq + %s, step = COALESCE(%s, step)
WHERE id = %s AND lease_owner = %s AND status IN (%s, %s, %s)
RETURNING last_seq, stop_requested, hand_back"""


def lease_end() -> datetime:
    """A lease taken now ends then."""
    return now() + timedelta(seconds=settings.RUN_LEASE_SECONDS)


class Checkpoint(models.Model):
    """Weights that a run saved: a folder below the run's own, or an URI of a hosted backend."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="checkpoints")
    seq = models.PositiveBigIntegerField(default=0)
    name = models.CharField(max_length=200)
    step = models.PositiveBigIntegerField()
    state_uri = models.CharField(max_length=1000, blank=True, help_text="Weights and optimizer, to resume from.")
    sampler_uri = models.CharField(
        max_length=1000, blank=True, help_text="Weights only, to sample from, download or continue from."
    )
    metrics = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering: ClassVar[list[str]] = ["-step", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["run", "name"], name="one_checkpoint_per_name")
        ]

    def __str__(self) -> str:
        return f"{self.run.name} {self.name}"


class MetricRow(models.Model):
    """One step of a live run, as JSON. Written and read by `metrics.py` alone."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="metric_rows")
    seq = models.PositiveBigIntegerField()
    step = models.PositiveBigIntegerField()
    at = models.DateTimeField()
    values = models.JSONField()

    class Meta:
        ordering: ClassVar[list[str]] = ["seq"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["run", "seq"], name="one_metric_row_per_seq")
        ]

    def __str__(self) -> str:
        return f"{self.run_id}:{self.seq}"


class MetricChunk(models.Model):
    """A folded stretch of one key, or (key "") the seq, step and time that the stretch's keys share. See `metrics.py`."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="metric_chunks")
    key = models.CharField(max_length=200, blank=True)
    first_seq = models.PositiveBigIntegerField()
    last_seq = models.PositiveBigIntegerField()
    first_step = models.PositiveBigIntegerField()
    last_step = models.PositiveBigIntegerField()
    count = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        ordering: ClassVar[list[str]] = ["first_seq"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["run", "key", "first_seq"], name="one_chunk_per_key_and_stretch")
        ]

    def __str__(self) -> str:
        return f"{self.run_id}:{self.key}:{self.first_seq}"


class EventKind(models.TextChoices):
    MESSAGE = "message", "Message"
    REWIND = "rewind", "Rewind"


class RunEvent(models.Model):
    """Something a person should read, or (kind rewind) that everything recorded beyond `step` is void."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveBigIntegerField()
    at = models.DateTimeField(default=now)
    kind = models.CharField(max_length=10, default=EventKind.MESSAGE, choices=EventKind)
    level = models.CharField(max_length=10, default="info")
    step = models.PositiveBigIntegerField(default=0)
    message = models.TextField()

    class Meta:
        ordering: ClassVar[list[str]] = ["seq"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["run", "seq"], name="one_event_per_seq")
        ]

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


def visible_run(user: User, pk: int) -> TrainingRun:
    """The run, or TrainingRun.DoesNotExist for whoever may not see it."""
    run: TrainingRun = TrainingRun.objects.visible_to(user).select_related("project", "dataset_version").get(pk=pk)
    return run
