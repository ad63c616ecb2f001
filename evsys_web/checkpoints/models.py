"""A checkpoint made ready for elsewhere: merged weights to download, or a push to the hub. An export is work as `runs/work.py`
has it; merged weights lie in the run's own folder until somebody removes them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from django.db import models
from django.db.models import Q

from evsys_web.runs.status import Status as Status
from evsys_web.runs.work import Work, WorkQuerySet


class Destination(models.TextChoices):
    DOWNLOAD = "download", "Merged weights"
    HUB = "hub", "Push to the hub"


class Weights(models.TextChoices):
    ADAPTER = "adapter", "The adapter alone"
    MERGED = "merged", "Merged into the base model"


class Export(Work):
    """num_bytes: what the weights will weigh, as far as known; num_bytes_done: what of it is written. phase: what is done now."""

    TASK = "evsys_web.checkpoints.tasks.export_checkpoint"

    checkpoint = models.ForeignKey("runs.Checkpoint", on_delete=models.CASCADE, related_name="exports")
    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="exports")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="+")
    submission_key = models.CharField(max_length=200, blank=True, editable=False, help_text="A form posted twice makes one.")
    destination = models.CharField(max_length=10, choices=Destination)
    weights = models.CharField(max_length=10, choices=Weights, default=Weights.MERGED)
    repository = models.CharField(max_length=200, blank=True, help_text="owner/name on the hub.")
    is_private = models.BooleanField(default=True)
    credential = models.CharField(max_length=200, blank=True, help_text="Name of the stored token.")
    phase = models.CharField(max_length=40, blank=True, editable=False)
    num_bytes = models.PositiveBigIntegerField(default=0, editable=False)
    num_bytes_done = models.PositiveBigIntegerField(default=0, editable=False)
    url = models.CharField(max_length=500, blank=True, editable=False, help_text="Where it is on the hub.")

    objects = WorkQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["created_by", "submission_key"], condition=~Q(submission_key=""), name="one_export_per_submission"
            )
        ]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["status", "lease_until"])]

    def __str__(self) -> str:
        return self.repository or f"merged weights of {self.checkpoint}"

    @property
    def folder(self) -> Path:
        """Where its merged weights lie; user text never joins a path."""
        return self.checkpoint.run.output_dir / "exports" / f"{self.pk}"

    @property
    def is_ready(self) -> bool:
        """There are merged weights to download."""
        return self.destination == Destination.DOWNLOAD and self.status == Status.COMPLETED and self.folder.is_dir()

    @property
    def progress(self) -> float | None:
        """Share written, in [0, 1]; None while nothing is known."""
        return min(1.0, self.num_bytes_done / self.num_bytes) if self.num_bytes else None

    def note(self, message: str, *, level: str = "info") -> None:
        """An export is short: its status and its error say all there is."""

    def lost_sentence(self) -> str:
        return "The worker was lost (killed, out of memory, or its machine went down). Start it again."
