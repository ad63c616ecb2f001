"""Datasets and their frozen versions. Rows live in a JSONL file under a name of our own; the table holds what a list needs."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any, ClassVar, NoReturn, Self

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Count, Max, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.models import OwnedQuerySet, Project, User
from evsys_web.datasets.rowfile import RowFile
from evsys_web.datasets.splits import TRAIN, Split, stretches
from recipes.errors import ConfigError
from recipes.types import Row

SILENT_FOR = timedelta(minutes=15)
valid_name = RegexValidator(
    r"\A[^\W_][\w .\-]*\Z",
    "Begin with a letter or digit; then letters, digits, spaces, dots, dashes and underscores. '@' is kept for versions.",
)


class DatasetQuerySet(OwnedQuerySet):
    def with_summary(self) -> Self:
        """Adds num_versions, updated_at, and of the newest version: newest_pk, newest_format, newest_rows."""
        versions = DatasetVersion.objects.filter(dataset=OuterRef("pk")).order_by()
        newest = versions.filter(status=VersionStatus.READY).order_by("-number")
        ready = versions.filter(status=VersionStatus.READY).values("dataset")
        return self.annotate(  # by subqueries: a join would be counted out for every dataset before the first page is cut
            num_versions=Coalesce(Subquery(ready.annotate(count=Count("pk")).values("count")), 0),
            updated_at=Subquery(versions.values("dataset").annotate(at=Max("created_at")).values("at")),
            newest_pk=Subquery(newest.values("pk")[:1]),
            newest_number=Subquery(newest.values("number")[:1]),
            newest_format=Subquery(newest.values("format")[:1]),
            newest_rows=Subquery(newest.values("num_rows")[:1]),
        )

    def resolve(self, reference: str, user: User, *, project: Project | None = None) -> DatasetVersion:
        """The version of `name@number`, or the newest of `name`. Raises ConfigError with path ("data", "dataset")."""
        name, _, number = reference.partition("@")
        versions = DatasetVersion.objects.ready().visible_to(user).filter(dataset__name=name).select_related("dataset")
        if project is not None:
            versions = versions.filter(dataset__project=project)
        found = list(versions.order_by("-number")) if not number else []
        if number:
            if not number.isdecimal():
                _refuse_reference(f"{reference!r} is no dataset version: write name@number, for example {name or 'name'}@1.")
            found = list(versions.filter(number=int(number)))
        if not found:
            _refuse_reference(f"There is no dataset version {reference!r} that you can see.")
        if len({version.dataset_id for version in found}) > 1:
            _refuse_reference(f"Several of your projects have a dataset {name!r}; choose it in one of them.")
        version: DatasetVersion = found[0]
        return version


def _refuse_reference(sentence: str) -> NoReturn:
    raise ConfigError(sentence, path=("data", "dataset"))


class Dataset(models.Model):
    """A named series of versions in a project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=100, validators=[valid_name])
    description = models.TextField(blank=True, max_length=2000)
    last_number = models.PositiveIntegerField(default=0, editable=False)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = DatasetQuerySet.as_manager()

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project", "name"], name="one_dataset_per_name_and_project")
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("datasets:dataset", args=[self.pk])

    def next_number(self) -> int:
        """Takes the next version number. A number is given once, even if its version is deleted: runs name it."""
        self.last_number += 1
        self.save(update_fields=["last_number"])
        return self.last_number

    def newest(self) -> DatasetVersion | None:
        return self.versions.ready().order_by("-number").first()


class VersionStatus(models.TextChoices):
    DRAFT = "draft", "Draft"
    READY = "ready", "Ready"


class Format(models.TextChoices):
    """The row formats of `recipes.rows` that can be stored."""

    MESSAGES = "messages", "Messages"
    PREFERENCE = "preference", "Preference"
    TASK = "task", "Task"


class DatasetVersionQuerySet(OwnedQuerySet):
    project_path = "dataset__project"

    def ready(self) -> Self:
        return self.filter(status=VersionStatus.READY)


def stored_name(instance: DatasetVersion, filename: str) -> str:
    """Users' file names never reach the disk."""
    return f"datasets/{uuid.uuid4().hex}{'.offsets' if filename.endswith('.offsets') else '.jsonl'}"


class DatasetVersion(models.Model):
    """Rows that never change once the version is ready: runs point at them.

    splits: [{"name", "num_rows"}, …] in the order of the file, all rows between them; [] for rows without splits.
    content_hash: `datasets.splits.content_hash` of the stored JSONL and the splits.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    status = models.CharField(max_length=10, choices=VersionStatus, default=VersionStatus.DRAFT)
    format = models.CharField(max_length=12, choices=Format)
    num_rows = models.PositiveBigIntegerField(default=0)
    num_bytes = models.PositiveBigIntegerField(default=0)
    splits = models.JSONField(default=list, blank=True, help_text="Names and sizes in the order of the rows; empty for none.")
    num_left_out = models.PositiveBigIntegerField(
        default=0, help_text="Rows of the source that were refused and left out on request."
    )
    content_hash = models.CharField(max_length=64)
    conversion = models.CharField(max_length=40, blank=True, help_text="How foreign rows were turned into ours; empty for none.")
    source = models.CharField(max_length=255, blank=True, help_text="Where the rows came from, for people to read.")
    file = models.FileField(upload_to=stored_name, max_length=200)
    offsets = models.FileField(upload_to=stored_name, max_length=200)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = DatasetVersionQuerySet.as_manager()

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["dataset", "number"], name="one_version_per_number"),
        ]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["dataset", "content_hash"], name="version_by_content")]

    def __str__(self) -> str:
        return self.reference

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises ValidationError for a version that is ready: it is what runs were trained on."""
        if getattr(self, "_frozen", False):
            raise ValidationError(f"{self.reference} is ready and never changes; upload a new version instead.")
        super().save(*args, **kwargs)
        self._frozen = self.status == VersionStatus.READY

    def get_absolute_url(self) -> str:
        return reverse("datasets:detail", args=[self.pk])

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **options: Any) -> Self:
        version = super().from_db(db, field_names, values, **options)
        version._frozen = version.__dict__.get("status") == VersionStatus.READY
        return version

    @property
    def reference(self) -> str:
        """`name@number`, as a run's config spells it."""
        return f"{self.dataset.name}@{self.number}"

    @property
    def rows(self) -> RowFile:
        return RowFile(self.file, self.offsets, self.num_rows)

    def stretch(self, split: str | None = None) -> Split:
        """Where the rows of a split lie; those of the whole version under the name "" when none is named.
        Raises ConfigError with path ("data", "split")."""
        if split is None:
            return Split("", 0, self.num_rows)
        known = stretches(self.splits)
        found = next((each for each in known if each.name == split), None)
        if found is None:
            names = ", ".join(each.name for each in known)
            has = f"It has {names}." if known else "It has no splits: leave the split away."
            raise ConfigError(f"{self.reference} has no split {split[:80]!r}. {has}", path=("data", "split"))
        return found

    def training_split(self, asked: str | None = None) -> str | None:
        """The split a training run learns from: the one asked for, else `train`; None in a version without splits.
        Raises ConfigError as `stretch`."""
        return self.stretch(asked or TRAIN).name if asked or self.splits else None

    def has_split(self, name: str) -> bool:
        return any(each["name"] == name for each in self.splits)

    def previous(self) -> DatasetVersion | None:
        """The version before this one; None for the first."""
        return self.dataset.versions.ready().filter(number__lt=self.number).order_by("-number").first()

    def read_rows(self, split: str | None = None) -> Iterator[Row]:
        """Every row in order, or every row of a split, streamed. Raises ConfigError as `stretch`."""
        part = self.stretch(split)
        return self.rows.between(part.start, part.stop)

    def rows_between(self, start: int, stop: int, split: str | None = None) -> list[Row]:
        """Rows start … stop - 1 of the version, or of a split, counted from 0; what lies outside is left away.
        Raises ConfigError as `stretch`."""
        part = self.stretch(split)
        return list(self.rows.between(part.start + max(0, start), min(part.start + stop, part.stop)))


def staged_name(instance: StagedUpload, filename: str) -> str:
    return f"staged/{instance.pk.hex}{'.errors.csv' if filename.endswith('.csv') else '.bin'}"


class StagedUpload(models.Model):
    """A file that waits for its owner's word: which columns are what, or whether to leave bad rows out. No dataset yet.

    `reading` and `report` are `recipes` objects dumped as JSON (see actions.py); swept after a day.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    created_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    dataset_name = models.CharField(max_length=100, validators=[valid_name])
    description = models.TextField(blank=True, max_length=2000)
    filename = models.CharField(max_length=255, blank=True)
    file = models.FileField(upload_to=staged_name, max_length=200)
    errors_file = models.FileField(upload_to=staged_name, max_length=200, blank=True)
    reading = models.JSONField(default=dict, blank=True)
    report = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = OwnedQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.filename or 'pasted text'} for {self.dataset_name}"


class Direction(models.TextChoices):
    PUSH = "push", "Publish"
    PULL = "pull", "Import"


class TransferStatus(models.TextChoices):
    """Words of `runs.status`, as far as a transfer needs them."""

    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"


class HubTransfer(models.Model):
    """version: what is published, or what the import became. credential: the name of a stored key, never the key."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    created_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    direction = models.CharField(max_length=4, choices=Direction)
    version = models.ForeignKey(DatasetVersion, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    staged = models.ForeignKey(StagedUpload, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    repo_id = models.CharField(max_length=200)
    revision = models.CharField(max_length=200, blank=True)
    config = models.CharField(max_length=200, blank=True)
    split = models.CharField(max_length=64, blank=True)
    credential = models.CharField(max_length=200, blank=True)
    is_private = models.BooleanField(default=True)
    format = models.CharField(max_length=10, default="parquet")
    dataset_name = models.CharField(max_length=100, blank=True)
    convert = models.BooleanField(default=False)
    status = models.CharField(max_length=10, choices=TransferStatus, default=TransferStatus.QUEUED)
    error = models.TextField(blank=True)
    url = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=now, editable=False)
    seen_at = models.DateTimeField(default=now, editable=False, help_text="When its worker last showed a sign of life.")
    finished_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = OwnedQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.get_direction_display()} {self.repo_id}"

    def get_absolute_url(self) -> str:
        return reverse("datasets:hub")

    @property
    def is_active(self) -> bool:
        return self.status in (TransferStatus.QUEUED, TransferStatus.RUNNING)

    @property
    def can_go_again(self) -> bool:
        """It failed, or nothing was heard of it for SILENT_FOR: its worker was lost, or the message was."""
        return self.status == TransferStatus.FAILED or (self.is_active and self.seen_at < now() - SILENT_FOR)

    def start(self) -> bool:
        """queued → running, for this caller alone."""
        return self._change(Q(status=TransferStatus.QUEUED), status=TransferStatus.RUNNING, seen_at=now())

    def alive(self) -> None:
        HubTransfer.objects.filter(pk=self.pk).update(seen_at=now())

    def complete(self, *, url: str = "") -> bool:
        made = {"version": self.version, "staged": self.staged, "url": url[:500], "error": ""}
        return self._change(Q(status=TransferStatus.RUNNING), status=TransferStatus.COMPLETED, finished_at=now(), **made)

    def fail(self, error: str) -> bool:
        """The sentence may quote what a server said: no database keeps half a character, PostgreSQL no NUL."""
        error = error.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        return self._change(Q(status=TransferStatus.RUNNING), status=TransferStatus.FAILED, finished_at=now(), error=error[:4000])

    def queue_again(self) -> bool:
        is_silent = Q(status__in=(TransferStatus.QUEUED, TransferStatus.RUNNING), seen_at__lt=now() - SILENT_FOR)
        return self._change(
            Q(status=TransferStatus.FAILED) | is_silent, status=TransferStatus.QUEUED, error="", seen_at=now(), finished_at=None
        )

    def _change(self, condition: Q, **values: Any) -> bool:
        won = HubTransfer.objects.filter(condition, pk=self.pk).update(**values) == 1
        if won:
            self.refresh_from_db()
        return won
