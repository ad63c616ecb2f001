"""`/api/v1/cycles`: everything that the cycle pages can do."""

from __future__ import annotations

from pathlib import Path

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from evsys_web.accounts.models import Project
from evsys_web.api.auth import caller
from evsys_web.api.bodies import TextBody
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.attachments import attachment
from evsys_web.cycles import actions
from evsys_web.cycles.export import export_cycle
from evsys_web.cycles.import_actions import import_cycle
from evsys_web.cycles.models import Cycle, visible_cycle
from evsys_web.cycles.schemas import CycleDetail, CycleEventOut, CycleOut, CycleQuery, CycleRequest, cycle_body
from evsys_web.datasets.api import received
from evsys_web.runs.schemas import RowId, read_body
from evsys_web.runs.snippets import yaml_of
from recipes.cycle_config import CycleConfig

router = Router(tags=["cycles"])
FILE = {"type": "string", "format": "binary", "description": "The zip that an export gave."}
UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["file"], "properties": {"file": FILE}}},
        "application/zip": {"schema": FILE},
    },
}
CREATE_BODY = TextBody(cycle_body)


class ImportQuery(Schema):
    project: RowId | None = Field(None, description="Id of the project it goes to; left away, your first one.")


@router.post("", response={201: CycleDetail}, summary="Launch a cycle", openapi_extra={"requestBody": CREATE_BODY})
@idempotent
def create_cycle(request: HttpRequest) -> Status[Cycle]:
    """From JSON or YAML. `learn` and `judge` each name a benchmark (by name or id), or a dataset of tasks and a verifier."""
    asked, user = CycleRequest(read_body(request)), caller(request)
    if asked.project_id is None:
        project = user.default_project()
    else:
        project = get_object_or_404(Project.objects.visible_to(user), pk=asked.project_id)
    return Status(201, actions.launch_cycle(user=user, project=project, config=asked.config))


@router.get("", response=Page[CycleOut], summary="List cycles, newest first")
def list_cycles(request: HttpRequest, query: Query[CycleQuery]) -> Slice:
    cycles = Cycle.objects.visible_to(caller(request)).defer("error_detail")
    if query.status:
        cycles = cycles.filter(status__in=query.status)
    if query.project is not None:
        cycles = cycles.filter(project=query.project)
    return paginate(cycles, query)


@router.post(
    "/import",
    response={201: CycleDetail},
    summary="Import a cycle that was exported elsewhere",
    openapi_extra={"requestBody": UPLOAD_BODY},
)
@idempotent
def import_exported_cycle(request: HttpRequest, query: Query[ImportQuery]) -> Status[Cycle]:
    """The zip as multipart `file`, or as the body itself. Rounds are judged anew; nothing of it is left if it cannot be used."""
    user = caller(request)
    project = get_object_or_404(Project.objects.visible_to(user), pk=query.project) if query.project else user.default_project()
    with received(request, "cycle.zip") as file:
        made = import_cycle(user=user, project=project, path=Path(file.temporary_file_path()))
    return Status(201, visible_cycle(user, made.pk))


@router.get("/{int:cycle_id}/export", summary="A cycle that has ended as a zip: settings, rows, attempts, points and weights")
def export_ended_cycle(request: HttpRequest, cycle_id: int) -> HttpResponseBase:
    cycle = visible_cycle(caller(request), cycle_id)
    return attachment(export_cycle(cycle), f"cycle-{cycle.pk}.zip", content_type="application/zip")


@router.get("/{int:cycle_id}", response=CycleDetail, summary="One cycle, with its rounds and how they compare")
def get_cycle(request: HttpRequest, cycle_id: int) -> Cycle:
    return visible_cycle(caller(request), cycle_id)


@router.delete("/{int:cycle_id}", response={204: None}, summary="Delete a cycle that is not running; its parts stay")
def delete_cycle(request: HttpRequest, cycle_id: int) -> Status[None]:
    actions.delete_cycle(user=caller(request), cycle=visible_cycle(caller(request), cycle_id))
    return Status(204, None)


@router.post("/{int:cycle_id}/stop", response=CycleDetail, summary="Stop after the step under way; a second time at once")
def stop_cycle(request: HttpRequest, cycle_id: int) -> Cycle:
    return actions.stop_cycle(user=caller(request), cycle=visible_cycle(caller(request), cycle_id))


@router.post("/{int:cycle_id}/resume", response=CycleDetail, summary="Go on with the part that did not complete")
def resume_cycle(request: HttpRequest, cycle_id: int) -> Cycle:
    return actions.resume_cycle(user=caller(request), cycle=visible_cycle(caller(request), cycle_id))


@router.get("/{int:cycle_id}/config.yaml", summary="The config as YAML")
def get_config(request: HttpRequest, cycle_id: int) -> HttpResponse:
    cycle = visible_cycle(caller(request), cycle_id)
    return HttpResponse(yaml_of(CycleConfig, cycle.config), content_type="application/yaml; charset=utf-8")


@router.get("/{int:cycle_id}/events", response=Page[CycleEventOut], summary="What happened, newest first")
def list_events(request: HttpRequest, cycle_id: int, query: Query[PageQuery]) -> Slice:
    return paginate(visible_cycle(caller(request), cycle_id).events.all(), query, by="seq")
