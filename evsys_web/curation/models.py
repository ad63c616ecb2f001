"""Saved filters, and what became of one: a curation is the record of which attempts became the rows of a dataset version.

The later row holds the key: a curation points at its eval runs and its version, a curated row at its attempt. What is deleted
leaves the record standing, with the names that things had on that day.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.db import models
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.timezone import now

from evsys_web.accounts.models import OwnedQuerySet


class Filter(models.Model):
    """Settings of a curation under a name, for everybody in the project to use again."""

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="filters")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    name = models.CharField(max_length=200)
    settings = models.JSONField(default=dict, help_text="A CurationSettings, dumped.")
    created_at = models.DateTimeField(default=now, editable=False)
    updated_at = models.DateTimeField(default=now, editable=False)

    objects = OwnedQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project", "name"], name="one_filter_per_name_and_project")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def text(self) -> str:
        return str(self.settings.get("filter", ""))

    @property
    def settings_json(self) -> str:
        """For the script that fills in the workbench."""
        return json.dumps(self.settings)


class Curation(models.Model):
    """What made a dataset version: eval runs, settings, counts, who and when. Never changed after it is made.

    `sources`: per eval run its id, name, model, benchmark, k and last_seq on that day. `counts`: the numbers of a
    `recipes.curation.Preview`, and under "skipped" how many conversations were no rows, by reason."""

    MAKES_VERSIONS = True

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="curations")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    name = models.CharField(max_length=200)
    settings = models.JSONField(default=dict, help_text="A CurationSettings, dumped.")
    eval_runs = models.ManyToManyField("evals.EvalRun", related_name="curations")
    sources = models.JSONField(default=list, help_text="The eval runs as they were; outlives them.")
    dataset_version = models.ForeignKey(
        "datasets.DatasetVersion", on_delete=models.SET_NULL, null=True, blank=True, related_name="curations"
    )
    dataset_reference = models.CharField(max_length=300, help_text="name@version; outlives the dataset itself.")
    fingerprint = models.CharField(max_length=64, help_text="sha256 of settings and eval runs: the same curation is made once.")
    counts = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = OwnedQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["dataset_version", "fingerprint"], name="one_curation_per_version_and_settings")
        ]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["project", "-created_at"])]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("curation:detail", args=[self.pk])

    @property
    def filter_text(self) -> str:
        return str(self.settings.get("filter", ""))

    @property
    def is_pairs(self) -> bool:
        return bool(self.settings.get("rows") == "pairs")

    @property
    def num_other_sources(self) -> int:
        """Beyond the two that a list names."""
        return max(0, len(self.sources) - 2)

    @property
    def workbench_url(self) -> str:
        """The workbench as it stood when this was published, with what of its eval runs is still there."""
        values: list[tuple[str, Any]] = [("eval", source["eval_run"]) for source in self.sources]
        values += [(name, _typed(value)) for name, value in self.settings.items() if value is not None]
        return f"{reverse('curation:new')}?{urlencode([*values, ('name', self.name)])}"


def _typed(value: Any) -> str:
    """A setting as a form would send it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Outliving(models.ForeignKey[Any, Any]):
    """Points at something that may be deleted without asking: the number stays, and finds nothing any more. Deleting an eval run
    with 160,000 attempts would otherwise look for each of them here. Numbers are never given again."""

    def __init__(self, to: Any, **options: Any) -> None:
        options |= {"null": True, "on_delete": models.DO_NOTHING, "db_constraint": False, "related_name": "+"}
        super().__init__(to, **options)


class Side(models.TextChoices):
    CHOSEN = "chosen", "chosen"
    REJECTED = "rejected", "rejected"


class CuratedRow(models.Model):
    """Where a row of a curated version comes from. position: from 0, in the version's file. score: of the chosen metric. A pair
    has two, one for each side.

    No key has a name backwards: datasets and evals list what points at them, and this is a hundred thousand rows."""

    version = models.ForeignKey("datasets.DatasetVersion", on_delete=models.CASCADE, related_name="+", db_index=False)
    position = models.PositiveIntegerField()
    split = models.CharField(max_length=64)
    side = models.CharField(max_length=10, blank=True, default="", choices=Side, help_text="Of a pair; else empty.")
    eval_run = Outliving("evals.EvalRun", db_index=False)
    task = Outliving("evals.EvalTask")
    attempt = Outliving("evals.Attempt", db_index=False)
    number = models.PositiveIntegerField(help_text="Which attempt at its task, from 0.")
    score = models.FloatField(null=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["position", "side"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["version", "position", "side"], name="one_source_per_row_and_side")
        ]

    def __str__(self) -> str:
        return f"row {self.position + 1}"
