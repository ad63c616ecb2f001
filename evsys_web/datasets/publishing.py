"""From rows that were taken in to a version, of which readers see everything at once, or nothing.

Where much is written beside a version (the source of each row) that comes first, under a draft that nobody is shown, in many
short transactions: SQLite lets one writer in at a time. Then one transaction makes a version of the draft. A draft whose writer
was killed is swept by the first publication a day later.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils.timezone import now

from evsys_web.accounts.audit import facts
from evsys_web.accounts.audit import record as record_change
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.datasets.intake import Intake
from evsys_web.datasets.models import Dataset, DatasetVersion, VersionStatus
from recipes.conversions import Reading
from recipes.errors import ConfigError, DataError

STAGED_FOR = timedelta(days=1)
"""What waits for somebody's word, or was left by a process that was killed, is kept so long."""


class Origin(NamedTuple):
    """Whose rows become a version of which dataset, how they were read, and where they came from, in words."""

    user: User
    project: Project
    name: str
    reading: Reading
    source: str
    description: str


class Beside(Protocol):
    """What belongs to a version that is made here."""

    def stage(self, draft: DatasetVersion) -> None:
        """Write what is long, in transactions of its own. If it raises there is no version, and what points at the draft goes
        with it."""
        ...

    def record(self, version: DatasetVersion) -> None:
        """Write the rest, in the transaction that makes the version, or finds that it is there. If it raises there is none."""
        ...


class Made(NamedTuple):
    """`created` is False when the project had a dataset of that name."""

    dataset: Dataset
    created: bool


class Publication(NamedTuple):
    """`created` is False when the dataset already had these rows as `version`."""

    version: DatasetVersion
    created: bool


def create_dataset(*, user: User, project: Project, name: str, description: str = "") -> Made:
    """An empty dataset, or the one of that name. Raises PermissionDenied, ConfigError."""
    require_editor(user, project)
    check_name(name)
    with transaction.atomic():
        values = {"description": description, "created_by": user}
        made = Made(*Dataset.objects.get_or_create(project=project, name=name, defaults=values))
        if made.created:
            record_change(user, "made", made.dataset, after=facts(made.dataset))
    return made


def check_name(name: str) -> None:
    """Raises ConfigError with path ("name",)."""
    try:
        Dataset._meta.get_field("name").clean(name, None)
    except ValidationError as error:
        raise ConfigError(f"Name of the dataset: {' '.join(error.messages)}", path=("name",)) from None


def publish(intake: Intake, origin: Origin, beside: Beside | None = None) -> Publication:
    """The rows as the next version of the dataset, or the version that has them. Raises PermissionDenied, ConfigError; DataError
    when the dataset is deleted meanwhile; and what is raised beside."""
    _sweep_leftovers()
    with ExitStack() as undo:
        with transaction.atomic():
            made = create_dataset(user=origin.user, project=origin.project, name=origin.name, description=origin.description)
            version = _found(made.dataset, intake, origin, beside)
            if version is not None:
                return Publication(version, False)
            draft = _drafted(made.dataset, intake, origin, undo)
            if beside is None:
                _make_ready(draft, origin)
        if beside is not None:
            undo.callback(_discard, draft, made, origin.user)
            beside.stage(draft)
            with transaction.atomic():
                hold(draft)
                version = _found(made.dataset, intake, origin, beside)
                if version is not None:  # somebody was faster
                    return Publication(version, False)
                _make_ready(draft, origin)
                beside.record(draft)
        undo.pop_all()
    return Publication(draft, True)


def hold(version: DatasetVersion) -> None:
    """Until the transaction ends nobody deletes it. Raises DataError when somebody did."""
    if DatasetVersion.objects.select_for_update().filter(pk=version.pk).first() is None:
        raise DataError("The dataset was deleted meanwhile. Nothing was published; try again.")


def _found(dataset: Dataset, intake: Intake, origin: Origin, beside: Beside | None) -> DatasetVersion | None:
    """The version with the same rows, with what belongs to it written down. Nobody else publishes in this dataset meanwhile."""
    Dataset.objects.select_for_update().get(pk=dataset.pk)
    same = dataset.versions.ready().filter(content_hash=intake.content_hash, format=origin.reading.format).first()
    if same is not None:
        _put_back(same, intake)
        if beside is not None:
            beside.record(same)
    return same


def _drafted(dataset: Dataset, intake: Intake, origin: Origin, undo: ExitStack) -> DatasetVersion:
    dataset.refresh_from_db()  # its last number
    draft = DatasetVersion(
        dataset=dataset,
        number=dataset.next_number(),
        format=origin.reading.format,
        num_rows=intake.report.count,
        num_bytes=intake.num_bytes,
        splits=intake.splits,
        num_left_out=intake.report.num_errors,
        content_hash=intake.content_hash,
        conversion=origin.reading.title,
        source=origin.source[:255],
        created_by=origin.user,
    )
    undo.callback(lambda: delete_files(draft.file, draft.offsets))
    draft.file.save("rows.jsonl", intake.lines, save=False)
    draft.offsets.save("rows.offsets", intake.offsets, save=False)
    draft.save()
    return draft


def _make_ready(draft: DatasetVersion, origin: Origin) -> None:
    draft.status, draft.created_at = VersionStatus.READY, now()
    draft.save()
    record_change(origin.user, "published", draft, after=facts(draft))


@transaction.atomic
def _discard(draft: DatasetVersion, made: Made, user: User) -> None:
    """What came to nothing leaves its number, which is given once, and no trace beside."""
    DatasetVersion.objects.filter(pk=draft.pk).delete()
    is_left = Dataset.objects.filter(pk=made.dataset.pk, versions__isnull=True).exists()
    if made.created and is_left:
        record_change(user, "deleted", made.dataset, before=facts(made.dataset))
        made.dataset.delete()


def _sweep_leftovers() -> None:
    """What was left by a process that was killed: drafts, and files on their way."""
    for path in Path(settings.FILE_UPLOAD_TEMP_DIR).glob("*.upload*"):
        with suppress(FileNotFoundError):  # whoever wrote it has just finished
            if path.stat().st_mtime < time.time() - STAGED_FOR.total_seconds():
                path.unlink()
    for draft in DatasetVersion.objects.filter(status=VersionStatus.DRAFT, created_at__lt=now() - STAGED_FOR)[:100]:
        draft.delete()
        delete_files(draft.file, draft.offsets)


def _put_back(version: DatasetVersion, intake: Intake) -> None:
    """Stored files that are gone from the disk, from an upload that has the very same rows."""
    for stored, file in ((version.file, intake.lines), (version.offsets, intake.offsets)):
        if not stored.storage.exists(str(stored.name)):
            stored.storage.save(str(stored.name), file)


def delete_files(*files: models.fields.files.FieldFile) -> None:
    for file in files:
        if file.name:
            file.storage.delete(file.name)
