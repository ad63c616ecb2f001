"""`/api/v1/checkpoints`: everything that the checkpoint pages can do."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja import Query, Router, Status

from evsys_web.accounts.permissions import require_editor
from evsys_web.api.auth import caller
from evsys_web.api.pagination import Page, Slice, paginate
from evsys_web.checkpoints import actions
from evsys_web.checkpoints.chat import ChatRequest, stream_replies
from evsys_web.checkpoints.dependents import dependents
from evsys_web.checkpoints.schemas import CheckpointDetail, CheckpointQuery, ScoredCheckpoint
from evsys_web.checkpoints.scores import scored, visible_checkpoints, with_scores
from evsys_web.runs import downloads
from evsys_web.runs.models import Checkpoint

router = Router(tags=["checkpoints"])


@router.get("", response=Page[ScoredCheckpoint], summary="List checkpoints with their newest score")
def list_checkpoints(request: HttpRequest, query: Query[CheckpointQuery]) -> Slice:
    user = caller(request)
    rows = visible_checkpoints(user)
    if query.run is not None:
        rows = rows.filter(run=query.run)
    if query.project is not None:
        rows = rows.filter(run__project=query.project)
    page = paginate(with_scores(rows, user, benchmark=query.benchmark), query, by=query.sort)
    return Slice(items=[ScoredCheckpoint.of(each) for each in scored(page.items)], next_cursor=page.next_cursor)


@router.get("/{int:checkpoint_id}", response=CheckpointDetail, summary="One checkpoint, with what was made from it")
def get_checkpoint(request: HttpRequest, checkpoint_id: int) -> dict[str, Any]:
    user = caller(request)
    (found,) = scored([with_scores(visible_checkpoints(user), user).get(pk=checkpoint_id)])
    kinds = [
        {"noun": kind.noun, "num_rows": kind.num_rows, "ids": [row.pk for row in kind.listed]}
        for kind in dependents(found.checkpoint, user)
    ]
    return {**ScoredCheckpoint.of(found), **CheckpointDetail.facts_of(found.checkpoint), "dependents": kinds}


@router.delete(
    "/{int:checkpoint_id}", response={204: None}, summary="Delete a checkpoint that nothing live needs, with its files"
)
def delete_checkpoint(request: HttpRequest, checkpoint_id: int) -> Status[None]:
    actions.delete_checkpoint(user=caller(request), checkpoint=_checkpoint(request, checkpoint_id))
    return Status(204, None)


@router.get("/{int:checkpoint_id}/download", summary="All files of a checkpoint as a zip, or one of them")
def download(request: HttpRequest, checkpoint_id: int, file: str = "") -> HttpResponseBase:
    return downloads.checkpoint_download(_checkpoint(request, checkpoint_id), file)


@router.post("/{int:checkpoint_id}/chat", summary="Ask a checkpoint and its base the same; server-sent events")
def chat_with_checkpoint(request: HttpRequest, checkpoint_id: int, body: ChatRequest) -> HttpResponseBase:
    """Events: `begin` with the seeds, `loading` while models are read, `text` of a side as it is drawn, `end` of a side with
    its whole reply, `error`, and `done` last. Hanging up ends the sampling; nothing is stored."""
    checkpoint = _checkpoint(request, checkpoint_id)
    require_editor(caller(request), checkpoint.run.project)
    return stream_replies(checkpoint, body)


def _checkpoint(request: HttpRequest, checkpoint_id: int) -> Checkpoint:
    return visible_checkpoints(caller(request)).get(pk=checkpoint_id)
