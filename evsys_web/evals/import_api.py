"""`POST /api/v1/evals/import`: attempts that were made elsewhere, by the same action as the page and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from evsys_web.accounts.models import Project
from evsys_web.api.auth import caller
from evsys_web.api.errors import FieldError, Unprocessable
from evsys_web.api.idempotency import idempotent
from evsys_web.datasets.api import received
from evsys_web.evals.import_actions import AttemptsRefused, ImportedRun, import_attempts
from evsys_web.evals.models import Benchmark
from recipes.errors import DataError

router = Router(tags=["evals"])
FILE = {"type": "string", "format": "binary", "description": "JSONL, harness samples, an rLLM run as zip, or an Inspect log."}
UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["file"], "properties": {"file": FILE}}},
        "application/jsonl": {"schema": {"type": "string", "description": "One attempt per line."}},
        "application/zip": {"schema": FILE},
    },
}


class ImportQuery(Schema):
    filename: str = Field("", max_length=255, description="Name of the file, for attempts sent as the body itself.")
    name: str = Field("", max_length=200, description="Name of the eval run; empty: the file's.")
    model: str = Field("", max_length=400, description="What was sampled from; empty: what the file says.")
    only_model: str = Field("", max_length=400, description="Of a file with several models, only the attempts by this one.")
    trajectory: str = Field("", max_length=200, description="Of rLLM episodes with several, the one to take; empty: the first.")
    project: int | None = Field(None, description="Id of a project you are in; your first one when left away.")
    benchmark: int | None = Field(None, description="Id of a benchmark of that project to show it under.")
    leave_out_bad: bool = Field(False, description="Import the good attempts although others are refused.")


class ImportedEvalOut(Schema):
    id: int = Field(validation_alias="run.pk")
    name: str = Field(validation_alias="run.name")
    model_label: str = Field(validation_alias="run.model_label")
    source: str = Field(validation_alias="run.source")
    k: int = Field(validation_alias="run.k", description="Most attempts at one task.")
    num_tasks: int = Field(validation_alias="report.num_tasks")
    num_attempts: int = Field(validation_alias="report.num_attempts")
    num_errors: int = Field(validation_alias="report.num_errors", description="Of the attempts, those without a verdict.")
    num_refused: int = Field(validation_alias="report.num_refused", description="Bad entries that were left out on request.")
    refused: list[str] = Field(validation_alias="report.refused", description="The first of them.")
    passed_over: dict[str, int] = Field(validation_alias="report.passed_over", description="Reason → entries left aside.")
    summary: dict[str, Any] = Field(validation_alias="run.summary")

    @staticmethod
    def resolve_refused(imported: ImportedRun) -> list[str]:
        return [str(error) for error in imported.report.refused]


@router.post(
    "/import",
    response={201: ImportedEvalOut},
    summary="Import attempts that were made elsewhere",
    openapi_extra={"requestBody": UPLOAD_BODY},
)
@idempotent
def import_eval(request: HttpRequest, query: Query[ImportQuery]) -> Status[ImportedRun]:
    """A file as multipart `file`, or the body itself. Nothing is stored when an attempt is bad, unless `leave_out_bad`."""
    user = caller(request)
    projects, benchmarks = Project.objects.visible_to(user), Benchmark.objects.visible_to(user)
    benchmark = None if query.benchmark is None else get_object_or_404(benchmarks.select_related("project"), pk=query.benchmark)
    if query.project is not None:
        project = get_object_or_404(projects, pk=query.project)
    else:
        project = benchmark.project if benchmark else user.default_project()
    with received(request, query.filename) as file:
        try:
            imported = import_attempts(
                user=user,
                project=project,
                path=Path(file.temporary_file_path()),
                filename=query.filename or file.name or "",
                name=query.name,
                benchmark=benchmark,
                model_label=query.model,
                only_model=query.only_model,
                trajectory=query.trajectory,
                leave_out_bad=query.leave_out_bad,
            )
        except AttemptsRefused as refusal:
            raise Unprocessable(str(refusal), *map(_field_error, refusal.report.refused)) from None
    return Status(201, imported)


def _field_error(error: DataError) -> FieldError:
    return FieldError(field=error.field or "", message=str(error), rule="data")
