"""`/api/v1/datasets`: what the dataset pages can do, by the same actions and with the same refusals."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import HttpRequest, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from evsys_web.accounts.models import Project, User
from evsys_web.api.auth import caller
from evsys_web.api.errors import FieldError, Unprocessable
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.datasets import actions, publishing
from evsys_web.datasets.diffs import MAX_SHOWN, diff, facts
from evsys_web.datasets.downloads import ExportFormat, version_download
from evsys_web.datasets.intake import ReadingNeeded, RowsRefused, SpilledFile
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.datasets.search import FIELDS, MAX_TEXT, search
from recipes.conversions import COLUMNS, CONVERSIONS, Reading
from recipes.errors import ConfigError, DataError
from recipes.rows import RowFormat

router = Router(tags=["datasets"])
CHUNK_BYTES = 1024 * 1024
UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary", "description": "JSONL, JSON, CSV or Parquet."}},
            }
        },
        "application/json": {"schema": {"type": "array", "items": {"type": "object"}, "description": "The rows themselves."}},
        "application/jsonl": {"schema": {"type": "string", "description": "One row per line."}},
    },
}


class SplitOut(Schema):
    name: str
    num_rows: int


class VersionOut(Schema):
    id: int
    dataset_id: int
    reference: str = Field(description="name@number, as a run's config spells it.")
    number: int
    format: str
    num_rows: int
    num_bytes: int
    num_left_out: int = Field(description="Rows of the upload that were refused and left out on request.")
    splits: list[SplitOut] = Field(description="In the order of the rows, all rows between them; empty for none.")
    content_hash: str = Field(description="sha256 of the stored JSONL; with splits, of that and their names and sizes.")
    conversion: str = Field(description="How foreign rows were converted; empty for none.")
    source: str
    created_at: datetime
    created_by: str | None

    @staticmethod
    def resolve_created_by(version: DatasetVersion) -> str | None:
        return version.created_by.username if version.created_by else None


class ImportedOut(Schema):
    version: VersionOut
    created: bool = Field(description="False when the dataset already had exactly these rows: this is that version.")
    metadata_keys: list[str] = Field(description="Keys of the rows that have no meaning here and were kept as metadata.")


class DatasetOut(Schema):
    id: int
    project_id: int
    name: str
    description: str
    num_versions: int
    newest_version_id: int | None = Field(validation_alias="newest_pk")
    format: str | None = Field(validation_alias="newest_format", description="Of the newest version, like num_rows.")
    num_rows: int | None = Field(validation_alias="newest_rows")
    created_at: datetime


class DatasetIn(Schema):
    name: str = Field(max_length=100)
    description: str = Field("", max_length=2000)
    project: int | None = Field(None, description="Id of a project you are in; your first one when left away.")


class ListQuery(PageQuery):
    project: int | None = Field(None, description="Only datasets of this project.")
    name: str = Field("", max_length=100, description="Only the dataset of this name.")


class UploadQuery(Schema):
    """How the rows are to be read; needed only for rows that are in none of the formats."""

    filename: str = Field("", max_length=255, description="Name of the file, for rows sent as the body itself.")
    conversion: str = Field("", description=f"For rows in a foreign shape: {', '.join(CONVERSIONS)}.")
    format: str = Field("", description=f"{', '.join(COLUMNS)}; empty to detect it. Needed with `column`.")
    column: list[str] = Field(
        default_factory=list, max_length=20, description="For a table, part=column, repeated: prompt=question and reply=answer."
    )
    keep_rest: bool = Field(True, description="Keep columns that are not named as metadata.")
    leave_out_bad: bool = Field(False, description="Import the good rows although others are refused.")


class SplitQuery(Schema):
    split: str | None = Field(None, max_length=64, description="Only rows of this split.")


class RowsQuery(SplitQuery):
    start: int = Field(0, ge=0, description="Number of the first row, from 0; within the split when one is named.")
    search: str = Field("", max_length=MAX_TEXT, description="Only rows that hold this text, whatever its case.")
    field: str = Field("", max_length=20, description=f"Search only in {', '.join(filter(None, FIELDS))}; empty for anywhere.")
    cursor: str = Field("", max_length=20, pattern=r"^\d{0,16}$", description="`next_cursor` of the page before.")
    limit: int = Field(100, ge=1, le=1000, description="Most rows to return.")


class DiffQuery(Schema):
    against: int | None = Field(None, ge=1, le=2**63 - 1, description="Id of another version; the one before when left away.")
    limit: int = Field(20, ge=0, le=MAX_SHOWN, description="Most added and most removed rows to return.")


class CountsOut(Schema):
    name: str = Field(description="Of the split; empty for the whole version, or for rows without splits.")
    before: int
    after: int
    added: int = Field(description="Rows that are new: in no split of the version before.")
    removed: int = Field(description="Rows that are in no split any more.")
    kept: int
    moved_in: int = Field(description="Rows that were in another split.")


class DiffRow(Schema):
    position: int = Field(description="From 0, in the version that has it.")
    row: dict[str, Any]


class FactOut(Schema):
    label: str
    before: str
    after: str


class DiffOut(Schema):
    before: VersionOut
    after: VersionOut
    total: CountsOut
    splits: list[CountsOut]
    added: list[DiffRow] = Field(description="The first rows that are new.")
    removed: list[DiffRow]
    facts: list[FactOut] = Field(description="What is said of the two versions and differs.")


class DownloadQuery(SplitQuery):
    format: ExportFormat = Field(ExportFormat.JSONL, description="jsonl or parquet.")


class RowsOut(Schema):
    rows: list[dict[str, Any]]
    positions: list[int] = Field(description="Of each row in the version, from 0, whatever split was asked for.")
    start: int
    total: int = Field(description="Rows of the version, or of the split.")
    searched: int = Field(
        description="How many of them were looked at so far, from the first; a search stops after about a second."
    )
    next_start: int | None = Field(description="`start` of the next page; null at the end.")
    next_cursor: str | None = Field(description="The same as a cursor: send it to go on, also where a search stopped.")


@router.get("", response=Page[DatasetOut], summary="List datasets, newest first")
def list_datasets(request: HttpRequest, query: Query[ListQuery]) -> Slice:
    datasets = Dataset.objects.visible_to(caller(request)).with_summary()
    if query.project is not None:
        datasets = datasets.filter(project=query.project)
    if query.name:
        datasets = datasets.filter(name=query.name)
    return paginate(datasets, query)


@router.post("", response={200: DatasetOut, 201: DatasetOut}, summary="Make a dataset, or find the one of that name")
@idempotent
def create_dataset(request: HttpRequest, body: DatasetIn) -> Status[Dataset]:
    user = caller(request)
    made = publishing.create_dataset(
        user=user, project=_project(user, body.project), name=body.name, description=body.description
    )
    return Status(201 if made.created else 200, _dataset(request, made.dataset.pk))


@router.get("/{int:dataset_id}", response=DatasetOut, summary="One dataset")
def get_dataset(request: HttpRequest, dataset_id: int) -> Dataset:
    return _dataset(request, dataset_id)


@router.delete("/{int:dataset_id}", response={204: None}, summary="Delete a dataset with all its versions")
def delete_dataset(request: HttpRequest, dataset_id: int) -> Status[None]:
    actions.delete_dataset(user=caller(request), dataset=_dataset(request, dataset_id))
    return Status(204, None)


@router.get("/{int:dataset_id}/versions", response=Page[VersionOut], summary="List the versions of a dataset, newest first")
def list_versions(request: HttpRequest, dataset_id: int, query: Query[PageQuery]) -> Slice:
    versions = _dataset(request, dataset_id).versions.ready().select_related("dataset", "created_by")
    return paginate(versions, query)


@router.post(
    "/{int:dataset_id}/versions",
    response={200: ImportedOut, 201: ImportedOut},
    summary="Upload rows as the next version",
    openapi_extra={"requestBody": UPLOAD_BODY},
)
@idempotent
def upload_version(request: HttpRequest, dataset_id: int, query: Query[UploadQuery]) -> Status[actions.Imported]:
    """A file as multipart `file`, or the rows as the body: a JSON array, JSONL or CSV. Nothing is stored when a row is bad."""
    user, dataset = caller(request), _dataset(request, dataset_id)
    with received(request, query.filename) as file:
        try:
            imported = actions.import_dataset(
                user=user,
                project=dataset.project,
                name=dataset.name,
                path=Path(file.temporary_file_path()),
                filename=file.name or "",
                reading=_reading(query),
                leave_out_bad=query.leave_out_bad,
            )
        except (ReadingNeeded, RowsRefused) as why:
            raise _unprocessable(why) from None
    return Status(201 if imported.created else 200, imported)


@router.get("/versions/{int:version_id}", response=VersionOut, summary="One version")
def get_version(request: HttpRequest, version_id: int) -> DatasetVersion:
    return _version(request, version_id)


@router.delete("/versions/{int:version_id}", response={204: None}, summary="Delete one version")
def delete_version(request: HttpRequest, version_id: int) -> Status[None]:
    actions.delete_version(user=caller(request), version=_version(request, version_id))
    return Status(204, None)


@router.get(
    "/versions/{int:version_id}/rows", response=RowsOut, summary="Rows of a version, a page at a time, or those with a text"
)
def list_rows(request: HttpRequest, version_id: int, query: Query[RowsQuery]) -> dict[str, Any]:
    """A search reads the file for about a second and says how far it came; `next_cursor` goes on from there."""
    version = _version(request, version_id)
    part = version.stretch(query.split)
    start = min(int(query.cursor) if query.cursor else query.start, part.num_rows)
    if query.search.strip():
        found = search(
            version.rows, query.search, within=part, start=part.start + start, field=query.field, max_found=query.limit
        )
        numbered, stop = found.rows, found.next_start - part.start
    else:
        rows = version.rows_between(start, start + query.limit, query.split)
        numbered, stop = list(enumerate(rows, start=part.start + start)), start + len(rows)
    goes_on = stop < part.num_rows
    return {
        "rows": [row for _, row in numbered],
        "positions": [position for position, _ in numbered],
        "start": start,
        "total": part.num_rows,
        "searched": stop,
        "next_start": stop if goes_on else None,
        "next_cursor": str(stop) if goes_on else None,
    }


@router.get("/versions/{int:version_id}/diff", response=DiffOut, summary="What is new in a version against another one")
def diff_versions(request: HttpRequest, version_id: int, query: Query[DiffQuery]) -> dict[str, Any]:
    """Rows are compared whole; the n-th of several equal rows is the n-th of them in the other version."""
    after = _version(request, version_id)
    before = _version(request, query.against) if query.against else after.previous()
    if before is None:
        raise ConfigError(f"{after.reference} is the first version: name another one.", path=("against",))
    found = diff(before, after)
    sides = {"added": (after, found.added[: query.limit]), "removed": (before, found.removed[: query.limit])}
    rows = {
        side: [
            {"position": position, "row": row} for position in positions for row in version.rows_between(position, position + 1)
        ]
        for side, (version, positions) in sides.items()
    }
    total, splits = found.total._asdict(), [each._asdict() for each in found.splits]
    return {"before": before, "after": after, "total": total, "splits": splits, **rows, "facts": facts(before, after)}


@router.get("/versions/{int:version_id}/download", summary="Rows of a version as a file, whole or one split")
def download_version(request: HttpRequest, version_id: int, query: Query[DownloadQuery]) -> StreamingHttpResponse:
    """JSONL, or Parquet with a fixed schema. Both import again as the same rows, the whole of a version with its splits: in JSONL
    the field `split` of each line names them."""
    return version_download(_version(request, version_id), format=query.format, split=query.split)


def _dataset(request: HttpRequest, dataset_id: int) -> Dataset:
    datasets = Dataset.objects.visible_to(caller(request)).with_summary().select_related("project")
    dataset: Dataset = get_object_or_404(datasets, pk=dataset_id)
    return dataset


def _version(request: HttpRequest, version_id: int) -> DatasetVersion:
    versions = DatasetVersion.objects.ready().visible_to(caller(request)).select_related("dataset", "created_by")
    version: DatasetVersion = get_object_or_404(versions, pk=version_id)
    return version


def _project(user: User, project_id: int | None) -> Project:
    if project_id is None:
        return user.default_project()
    return get_object_or_404(Project.objects.visible_to(user), pk=project_id)


def received(request: HttpRequest, filename: str) -> TemporaryUploadedFile:
    """The upload on disk, whatever its size: the multipart file, or the body as it streams in. Raises DataError."""
    if (request.content_type or "").startswith("multipart/"):
        file = request.FILES.get("file")
        if not isinstance(file, TemporaryUploadedFile):
            raise DataError("Send the rows as a file in the multipart field 'file', or as the body.", field="file")
        return file
    spilled = SpilledFile(filename or "body")
    for chunk in _body_chunks(request):
        spilled.stream.write(chunk)
    spilled.finish()
    return spilled


def _body_chunks(request: HttpRequest) -> Iterator[bytes]:
    while chunk := request.read(CHUNK_BYTES):
        yield chunk


def _reading(query: UploadQuery) -> Reading | None:
    """Raises ConfigError naming the parameter."""
    if query.conversion:
        if query.conversion not in CONVERSIONS:
            known = ", ".join(CONVERSIONS)
            raise ConfigError(f"There is no conversion {query.conversion!r}. Choose one of: {known}.", path=("conversion",))
        return Reading(CONVERSIONS[query.conversion].format, query.conversion)
    if not query.format:
        if query.column:
            raise ConfigError(f"Say with format what the columns make: {', '.join(COLUMNS)}.", path=("format",))
        return None
    if query.format not in COLUMNS:
        raise ConfigError(f"The format is one of {', '.join(COLUMNS)}, not {query.format!r}.", path=("format",))
    pairs = [entry.partition("=") for entry in query.column]
    if any(not part or not name for part, _, name in pairs):
        raise ConfigError("Write each column as part=column, for example prompt=question.", path=("column",))
    columns = {part: name for part, _, name in pairs}
    return Reading(RowFormat(query.format), columns=columns, keep_rest=query.keep_rest)


def _unprocessable(why: ReadingNeeded | RowsRefused) -> Unprocessable:
    if isinstance(why, RowsRefused):
        why.errors_csv.close()
        return Unprocessable(str(why), *(_field_error(error) for error in why.report.errors))
    reading = why.proposal.reading
    advice = f"Send conversion={reading.conversion}." if reading else "Send format and column, or a conversion."
    return Unprocessable(f"{why} {advice}", FieldError(field="conversion", message=str(why), rule="reading_needed"))


def _field_error(error: DataError) -> FieldError:
    where = f"line {error.line}" if error.line is not None else ""
    field = f"{where}: {error.field}" if where and error.field else where or error.field or ""
    return FieldError(field=field, message=str(error), rule="data")
