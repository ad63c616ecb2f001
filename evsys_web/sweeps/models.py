"""Sweeps: runs that were made together to learn what a setting does. A sweep does nothing itself; its runs are ordinary ones."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from django.db import models
from django.db.models import Count, Q
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.models import OwnedQuerySet, User
from evsys_web.runs.status import ACTIVE, Status
from recipes.sweep_config import SweepConfig


class SweepQuerySet(OwnedQuerySet):
    def newest_first(self) -> Self:
        return self.order_by("-created_at", "-pk")

    def with_counts(self) -> Self:
        """num_runs, and how many of them stand how."""

        def those(*statuses: str) -> Count:
            return Count("members", filter=Q(members__run__status__in=statuses), distinct=True)

        return self.annotate(
            num_runs=Count("members", distinct=True),
            num_queued=those(Status.QUEUED),
            num_active=those(*ACTIVE),
            num_completed=those(Status.COMPLETED),
            num_failed=those(Status.FAILED, Status.CRASHED),
            num_cancelled=those(Status.CANCELLED),
        )


class Sweep(models.Model):
    """`config` is a SweepConfig: the settings of one run, and what of them is varied."""

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="sweeps")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="sweeps")
    name = models.CharField(max_length=200)
    dataset_version = models.ForeignKey(
        "datasets.DatasetVersion", on_delete=models.SET_NULL, null=True, blank=True, related_name="sweeps"
    )
    dataset_reference = models.CharField(max_length=300, blank=True, help_text="name@version; outlives the dataset itself.")
    config = models.JSONField(default=dict, help_text="A SweepConfig, dumped.")
    axis_order = models.JSONField(
        default=list, editable=False, help_text="Paths of the axes as combinations are numbered: jsonb keeps no order of keys."
    )
    submission_key = models.CharField(
        max_length=200, blank=True, editable=False, help_text="A form posted twice makes one sweep."
    )
    created_at = models.DateTimeField(default=now, editable=False)

    objects = SweepQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["created_by", "submission_key"], condition=~Q(submission_key=""), name="one_sweep_per_submission"
            )
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project", "-created_at"], name="sweep_by_project"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("sweeps:detail", args=[self.pk])

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The values tried, by the path of their setting."""
        axes = self.config.get("matrix", {}).get("axes", {})
        return {path: axes[path] for path in self.axis_order or axes}

    @property
    def seeds(self) -> list[int]:
        return list(self.config.get("matrix", {}).get("seeds", []))

    def load_config(self) -> SweepConfig:
        """Validated again: the row may be older than the code. Raises ConfigError."""
        return SweepConfig.from_values(self.config)


class SweepRun(models.Model):
    """A run's place in its sweep. combination: which values of the axes, from 0; seed: null where the sweep has none."""

    sweep = models.ForeignKey(Sweep, on_delete=models.CASCADE, related_name="members")
    run = models.OneToOneField("runs.TrainingRun", on_delete=models.CASCADE, related_name="sweep_place")
    combination = models.PositiveIntegerField()
    seed = models.BigIntegerField(null=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["combination", "seed", "pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["sweep", "combination", "seed"], name="one_run_per_combination_and_seed")
        ]

    def __str__(self) -> str:
        return f"{self.sweep_id}:{self.combination}:{self.seed}"


def visible_sweep(user: User, pk: int) -> Sweep:
    """The sweep with its counts, or Sweep.DoesNotExist for whoever may not see it."""
    found: Sweep = Sweep.objects.visible_to(user).with_counts().select_related("project", "dataset_version__dataset").get(pk=pk)
    return found
