"""A training run, and what it leaves: points, events and checkpoints. How its status changes is `work.py`'s."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Greatest
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.models import User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.datasets.splits import VALIDATION
from evsys_web.runs.status import ACTIVE as ACTIVE
from evsys_web.runs.status import ENDED as ENDED
from evsys_web.runs.status import Standing as Standing
from evsys_web.runs.status import Status as Status
from evsys_web.runs.status import Stop as Stop
from evsys_web.runs.work import Work, WorkQuerySet
from evsys_web.runs.work import storable as storable
from recipes.config import RunConfig
from recipes.errors import DataError
from recipes.registry import sampling_backends
from recipes.types import Row


class TrainingRun(Work):
    """One fine-tune. `step` counts completed optimizer steps."""

    DONE_HERE = Q(is_external=False)
    TASK = "evsys_web.runs.tasks.train_run"

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
    auto_resume = models.BooleanField(default=False, help_text="After a lost worker, go on from the last checkpoint unasked.")
    step = models.PositiveBigIntegerField(default=0, editable=False)
    num_steps = models.PositiveBigIntegerField(default=0, editable=False, help_text="0 while unknown.")

    objects = WorkQuerySet.as_manager()
    LEAVES_BELOW = ""

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
    def is_done_here(self) -> bool:
        return not self.is_external

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

    @property
    def split(self) -> str | None:
        """The split of its dataset that it learns from; None for all rows."""
        name: str | None = self.config.get("data", {}).get("split")
        return name

    @property
    def validation_split(self) -> str | None:
        """The split that its loss is measured on: `validation`, where the dataset has one that is not learnt from."""
        version = self.dataset_version
        has_one = version is not None and self.split not in (None, VALIDATION) and version.has_split(VALIDATION)
        return VALIDATION if has_one else None

    def read_rows(self) -> list[Row]:
        """The rows it trains on. Raises DataError when they were deleted meanwhile."""
        return list(self._version().read_rows(self.split))

    def read_validation_rows(self) -> list[Row] | None:
        """The rows of `validation_split`; None where there is none. Raises DataError when they were deleted meanwhile."""
        return list(self._version().read_rows(self.validation_split)) if self.validation_split else None

    def _version(self) -> DatasetVersion:
        if self.dataset_version is None:
            raise DataError(
                f"The dataset {self.dataset_reference} was deleted after this run was made. Clone the run and choose another one."
            )
        return self.dataset_version

    # how it changes

    @property
    def wants_to_go_on(self) -> bool:
        return bool(self.auto_resume)

    def lost_sentence(self) -> str:
        saved = self.checkpoints.exclude(state_uri="").order_by("-step").first()
        go_on = f"Resume goes on from step {saved.step}." if saved else "Nothing was saved yet: resume begins at the first step."
        return f"The worker was lost after step {self.step} (killed, out of memory, or its machine went down). {go_on}"

    def note(self, message: str, *, level: str = "info") -> None:
        RunEvent.objects.create(run=self, seq=self.next_seqs(1), level=level, step=self.step, message=message)

    def report_in(self, *, step: int) -> bool:
        """A run trained elsewhere sent points up to this step."""
        return self._change(Q(is_external=True, status=Status.RUNNING), step=Greatest("step", models.Value(step)))

    def report_end(self, status: Status, *, error: str = "") -> bool:
        """A run trained elsewhere says how it ended."""
        return self._change(Q(is_external=True, status=Status.RUNNING), status=status, error=storable(error), finished_at=now())


EXPIRES_SOON = timedelta(days=3)


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
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="When the provider that keeps the weights removes them; empty: they stay."
    )

    class Meta:
        ordering: ClassVar[list[str]] = ["-step", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["run", "name"], name="one_checkpoint_per_name")
        ]

    def __str__(self) -> str:
        return f"{self.run.name} {self.name}"

    def get_absolute_url(self) -> str:
        return reverse("checkpoints:detail", args=[self.pk])

    @property
    def is_expired(self) -> bool:
        """The provider has removed the weights."""
        return self.expires_at is not None and self.expires_at <= now()

    @property
    def can_chat(self) -> bool:
        """Its weights are there, and where they are can be sampled from here."""
        kind = self.run.config.get("backend", {}).get("kind", "local")
        return bool(self.sampler_uri) and not self.is_expired and kind in sampling_backends()

    @property
    def expires_soon(self) -> bool:
        return self.expires_at is not None and not self.is_expired and self.expires_at - now() < EXPIRES_SOON


class MetricRow(models.Model):
    """One step of a live run, as JSON. Written and read by `metrics.py` alone. Its constraint, which begins with the run, is
    the index by run as well: each commit would write another one."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="metric_rows", db_index=False)
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


class QueueLimits(models.Model):
    """How much of a project's work, runs and evals together, may be under way and wait at a time. null: as much as it likes."""

    project = models.OneToOneField("accounts.Project", on_delete=models.CASCADE, related_name="queue_limits")
    max_running = models.PositiveIntegerField(null=True, blank=True)
    max_waiting = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "queue limits"

    def __str__(self) -> str:
        return f"{self.project}: {self.max_running} running, {self.max_waiting} waiting"


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
