"""`/api/v1/checkpoints/…/exports`: merged weights, and pushes to the hub."""

from __future__ import annotations

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja import Query, Router, Status

from evsys_web.api.auth import caller
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.checkpoints import export_actions as actions
from evsys_web.checkpoints.export_views import export_zip
from evsys_web.checkpoints.models import Destination, Export
from evsys_web.checkpoints.schemas import ExportIn, ExportOut
from evsys_web.checkpoints.scores import visible_checkpoints
from recipes.errors import CheckpointError

router = Router(tags=["checkpoints"])


@router.post("/{int:checkpoint_id}/exports", response={201: ExportOut}, summary="Merge into the base, or push to the hub")
@idempotent
def create_export(request: HttpRequest, checkpoint_id: int, body: ExportIn) -> Status[Export]:
    """Merged weights that there are already are given back instead of made again."""
    user = caller(request)
    checkpoint = visible_checkpoints(user).get(pk=checkpoint_id)
    if body.destination == Destination.DOWNLOAD:
        return Status(201, actions.launch_merge(user=user, checkpoint=checkpoint))
    values = body.model_dump(exclude={"destination"})
    return Status(201, actions.launch_push(user=user, checkpoint=checkpoint, **values))


@router.get("/{int:checkpoint_id}/exports", response=Page[ExportOut], summary="Exports of a checkpoint, newest first")
def list_exports(request: HttpRequest, checkpoint_id: int, query: Query[PageQuery]) -> Slice:
    checkpoint = visible_checkpoints(caller(request)).get(pk=checkpoint_id)
    return paginate(Export.objects.filter(checkpoint=checkpoint).select_related("checkpoint__run"), query)


@router.get("/exports/{int:export_id}", response=ExportOut, summary="One export")
def get_export(request: HttpRequest, export_id: int) -> Export:
    return _export(request, export_id)


@router.post("/exports/{int:export_id}/stop", response=ExportOut, summary="Stop an export before its next phase")
def stop_export(request: HttpRequest, export_id: int) -> Export:
    return actions.stop_export(user=caller(request), export=_export(request, export_id))


@router.delete("/exports/{int:export_id}", response={204: None}, summary="Remove an ended export, and its merged weights")
def remove_export(request: HttpRequest, export_id: int) -> Status[None]:
    actions.remove_export(user=caller(request), export=_export(request, export_id))
    return Status(204, None)


@router.get("/exports/{int:export_id}/download", summary="Merged weights as a zip")
def download_export(request: HttpRequest, export_id: int) -> HttpResponseBase:
    export = _export(request, export_id)
    if not export.is_ready:
        raise CheckpointError("These merged weights are not ready, or were removed.")
    return export_zip(export)


def _export(request: HttpRequest, export_id: int) -> Export:
    found: Export = Export.objects.visible_to(caller(request)).select_related("checkpoint__run", "project").get(pk=export_id)
    return found
