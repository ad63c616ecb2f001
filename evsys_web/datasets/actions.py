"""Every write to datasets: import a file, keep one that waits for a decision, import the starter rows, delete."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from django.core.files import File
from django.core.files.uploadedfile import UploadedFile
from django.db import models, transaction
from django.utils.timezone import now

from evsys_web.accounts.audit import facts
from evsys_web.accounts.audit import record as record_change
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.datasets.intake import ReadingNeeded, RowsRefused, SpilledFile, propose, take_in, take_in_splits
from evsys_web.datasets.models import Dataset, DatasetVersion, StagedUpload
from evsys_web.datasets.publishing import STAGED_FOR, Beside, Origin, check_name, delete_files, publish
from evsys_web.datasets.splits import content_hash
from recipes import starter
from recipes.conversions import Reading
from recipes.rows import Report, RowFormat, check
from recipes.sources import FileKind, declared_splits
from recipes.types import Row

STARTER_NAME = "starter-sums"
STARTER_ROWS = Path(starter.__file__).parent / "rows" / "train.jsonl"


class StarterTasks(NamedTuple):
    """A bundled set of tasks: the dataset it becomes, and its file."""

    name: str
    filename: str
    description: str


STARTER_HELD_OUT = StarterTasks(
    "starter-tasks",
    "tasks_held_out.jsonl",
    "Sums with their answers, to see how often a model solves them. None of them is among the starter rows.",
)
STARTER_LEARNING = StarterTasks(
    "starter-learning-tasks",
    "tasks_train.jsonl",
    "Sums with their answers, for a model to try and to learn from. None of them is among the held-out ones.",
)


class Imported(NamedTuple):
    """`created` is False when the dataset already had these rows as `version`."""

    version: DatasetVersion
    created: bool
    metadata_keys: list[str]


def import_dataset(
    *,
    user: User,
    project: Project,
    name: str,
    path: Path,
    filename: str = "",
    source: str = "",
    description: str = "",
    reading: Reading | None = None,
    leave_out_bad: bool = False,
) -> Imported:
    """Store the rows of a file as the next version of the dataset `name`, which is made when there is none.
    source: where they came from, for people to read; the file's name when left away.

    Raises PermissionDenied; ConfigError for the name; ReadingNeeded when the rows are foreign and no reading is given;
    RowsRefused when rows are bad and may not be left out, or none is good; DataError for a file that cannot be read at all.
    """
    require_editor(user, project)
    check_name(name)
    proposal = propose(path, filename)
    if reading is None:
        reading = proposal.reading
        if reading is None or reading.conversion:
            raise ReadingNeeded(proposal)
    kind = proposal.kind
    splits = declared_splits(path) if kind is FileKind.PARQUET else []
    del proposal  # its sample may hold megabytes
    intake, errors_csv = take_in(path, kind, reading)
    with closing(intake):
        report = intake.report
        if report.num_errors and not (leave_out_bad and report.count):
            errors_csv.seek(0)
            raise RowsRefused(report, reading, errors_csv)
        errors_csv.close()
        if splits:
            intake.take_splits(splits)
        origin = Origin(user, project, name, reading, source or Path(filename).name, description)
        return Imported(*publish(intake, origin), intake.metadata_keys)


def publish_splits(
    *,
    user: User,
    project: Project,
    name: str,
    splits: Mapping[str, Iterable[Row]],
    row_format: RowFormat,
    source: str = "",
    description: str = "",
    beside: Beside | None = None,
) -> Imported:
    """Store rows made here, split by split in the order given, as the next version of the dataset `name`; the version that is
    there already when it has the very same rows and splits. Rows are streamed: checked, written, and forgotten.
    beside: writes down what made the version.

    Raises PermissionDenied; ConfigError for a name; DataError at the first bad row or for a split without any: nothing is stored.
    """
    require_editor(user, project)
    check_name(name)
    with closing(take_in_splits(splits, row_format)) as intake:
        origin = Origin(user, project, name, Reading(row_format), source, description)
        return Imported(*publish(intake, origin, beside), intake.metadata_keys)


def stage_upload(
    *,
    user: User,
    project: Project,
    name: str,
    upload: UploadedFile[Any],
    filename: str,
    description: str,
    why: ReadingNeeded | RowsRefused,
) -> StagedUpload:
    """Keep a file that was not imported, and why, until its owner has decided or a day has passed."""
    sweep_staged()
    staged = StagedUpload(
        project=project, created_by=user, dataset_name=name, description=description, filename=Path(filename).name[:255]
    )
    upload.seek(0)
    staged.file.save("upload", upload, save=False)
    record_refusal(staged, why)
    record_change(user, "uploaded", staged, after=facts(staged))
    return staged


def record_refusal(staged: StagedUpload, why: ReadingNeeded | RowsRefused) -> None:
    """Keep what a try to import gave: counts, the first errors, the whole list as CSV, and the reading that was used."""
    if staged.errors_file:
        staged.errors_file.delete(save=False)
    if isinstance(why, RowsRefused):
        staged.reading = why.reading.to_values()
        staged.report = {
            "count": why.report.count,
            "num_errors": why.report.num_errors,
            "errors": [
                {"line": error.line, "field": error.field, "found": error.found, "expected": error.expected}
                for error in why.report.errors
            ],
        }
        staged.errors_file.save("errors.csv", File(why.errors_csv), save=False)
        why.errors_csv.close()
    else:
        staged.report = {}
    staged.save()


def import_staged(*, staged: StagedUpload, user: User, reading: Reading | None = None, leave_out_bad: bool = False) -> Imported:
    """Import a kept file, now with its owner's word; it is forgotten when that succeeds. Raises as `import_dataset`."""
    with local_copy(staged.file) as path:
        imported = import_dataset(
            user=user,
            project=staged.project,
            name=staged.dataset_name,
            path=path,
            filename=staged.filename,
            description=staged.description,
            reading=reading,
            leave_out_bad=leave_out_bad,
        )
    forget_staged(staged)
    return imported


@contextmanager
def local_copy(field_file: models.fields.files.FieldFile) -> Iterator[Path]:
    """A path to the file's bytes: its own on local storage, else a temporary copy."""
    try:
        path = Path(field_file.path)
    except NotImplementedError:
        with SpilledFile("copy") as copy, field_file.open("rb") as stored:
            shutil.copyfileobj(stored, copy.stream)
            copy.finish()
            yield Path(copy.temporary_file_path())
    else:
        yield path


def discard_staged(*, user: User, staged: StagedUpload) -> None:
    """Its owner does not want it any more. Raises PermissionDenied."""
    require_editor(user, staged.project)
    record_change(user, "discarded", staged, before=facts(staged))
    forget_staged(staged)


def forget_staged(staged: StagedUpload) -> None:
    """Delete the row and its files."""
    staged.delete()
    delete_files(staged.file, staged.errors_file)


def sweep_staged() -> None:
    """Forget what nobody decided about within a day."""
    for staged in StagedUpload.objects.filter(created_at__lt=now() - STAGED_FOR)[:100]:
        forget_staged(staged)


def validate_file(*, path: Path, filename: str) -> Report:
    """Read and check every row as an import would, and store nothing. Raises as `import_dataset`."""
    proposal = propose(path, filename)
    if proposal.reading is None or proposal.reading.conversion:
        raise ReadingNeeded(proposal)
    intake, errors_csv = take_in(path, proposal.kind, proposal.reading)
    intake.close()
    if intake.report.num_errors:
        raise RowsRefused(intake.report, proposal.reading, errors_csv)
    errors_csv.close()
    return intake.report


class Soundness(NamedTuple):
    is_sound: bool
    sentence: str


def validate_version(version: DatasetVersion) -> Soundness:
    """Whether the stored file is still the one that was imported: its hash, its number of rows, and each row's format."""
    digest = hashlib.sha256()
    try:
        with version.file.storage.open(str(version.file.name), "rb") as stream:
            while chunk := stream.read(1024 * 1024):
                digest.update(chunk)
        if content_hash(digest.hexdigest(), version.splits) != version.content_hash:
            return Soundness(False, "the file was changed after it was imported.")
        report = check(version.read_rows(), RowFormat(version.format))
    except OSError as error:
        return Soundness(False, f"the file cannot be read: {error.strerror or error}.")
    if report.num_errors or report.count != version.num_rows:
        first = f" {report.errors[0]}" if report.errors else ""
        return Soundness(False, f"{report.count:,} of {version.num_rows:,} rows are good.{first}")
    return Soundness(True, f"all {version.num_rows:,} rows are good and unchanged.")


def import_starter_rows(project: Project, user: User) -> DatasetVersion:
    """The bundled worked sums as a dataset; the version that is there already when asked again."""
    return import_dataset(
        user=user,
        project=project,
        name=STARTER_NAME,
        path=STARTER_ROWS,
        filename="train.jsonl",
        description="Worked sums that the bundled starter model learns from. A good first run.",
    ).version


def import_starter_tasks(project: Project, user: User, tasks: StarterTasks = STARTER_HELD_OUT) -> DatasetVersion:
    """Bundled sums as tasks; the same version when asked again. The held-out ones are in none of the other bundled rows."""
    return import_dataset(
        user=user,
        project=project,
        name=tasks.name,
        path=STARTER_ROWS.with_name(tasks.filename),
        filename=tasks.filename,
        description=tasks.description,
    ).version


@transaction.atomic
def delete_dataset(*, user: User, dataset: Dataset) -> None:
    """Delete a dataset and the files of all its versions. Runs keep the name of what they were trained on."""
    require_editor(user, dataset.project)
    files = [file for version in dataset.versions.all() for file in (version.file, version.offsets)]
    record_change(user, "deleted", dataset, before=facts(dataset))
    dataset.delete()
    transaction.on_commit(lambda: delete_files(*files))


@transaction.atomic
def delete_version(*, user: User, version: DatasetVersion) -> None:
    """Delete one version and its files; the dataset stays, and its numbers are not given again."""
    require_editor(user, version.dataset.project)
    files = (version.file, version.offsets)
    record_change(user, "deleted", version, before=facts(version))
    version.delete()
    transaction.on_commit(lambda: delete_files(*files))
