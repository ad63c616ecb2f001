"""`/api/v1/queue`: what works and waits, in which order, and how to change it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from pydantic import Field

from evsys_web.accounts.models import Project
from evsys_web.api.auth import caller
from evsys_web.queue import actions
from evsys_web.queue.actions import Move
from evsys_web.queue.entries import KINDS, Entry, queues_for
from evsys_web.runs.models import QueueLimits
from evsys_web.runs.status import Priority
from evsys_web.runs.work import WorkQuerySet

router = Router(tags=["queue"])
PriorityWord = Literal["low", "normal", "high"]


class ParentOut(Schema):
    noun: str
    name: str
    url: str


class EntryOut(Schema):
    kind: str = Field(description="runs, evals or exports.")
    id: int | None = Field(description="null for what lies in a project that you do not see.")
    name: str
    project_id: int | None
    user: str = Field(description="Who started it.")
    status: str
    priority: str
    position: int | None = Field(description="From 1; null for what is under way.")
    held: bool = Field(description="Its project has as much under way as it may.")
    since: datetime | None = Field(description="When it began, or began to wait.")
    seconds: float | None = Field(description="What is left of it, estimated; null if not known.")
    part_of: ParentOut | None


class QueueOut(Schema):
    name: str = Field(description="As workers are told which to read.")
    working: list[EntryOut]
    waiting: list[EntryOut] = Field(description="In the order in which they are taken; at most 100.")
    num_waiting: int


class ChangeIn(Schema):
    to: Move | None = Field(None, description="Among your own of one priority.")
    priority: PriorityWord | None = Field(None, description="high is for admins of the project to give.")


class LimitsIn(Schema):
    max_running: int | None = Field(None, ge=0, le=100_000, description="Runs and evals under way at a time; null for any.")
    max_waiting: int | None = Field(None, ge=0, le=100_000, description="Runs and evals waiting at a time; null for any.")


@router.get("", response=list[QueueOut], summary="What works and what waits, in order")
def get_queues(request: HttpRequest) -> list[dict[str, Any]]:
    return _queues(request)


@router.post("/runs/{int:run_id}", response=list[QueueOut], summary="Move a waiting run, or change its priority")
def change_run(request: HttpRequest, run_id: int, body: ChangeIn) -> list[dict[str, Any]]:
    return _changed(request, "runs", run_id, body)


@router.post("/evals/{int:eval_id}", response=list[QueueOut], summary="Move a waiting eval, or change its priority")
def change_eval(request: HttpRequest, eval_id: int, body: ChangeIn) -> list[dict[str, Any]]:
    return _changed(request, "evals", eval_id, body)


@router.post("/exports/{int:export_id}", response=list[QueueOut], summary="Move a waiting export, or change its priority")
def change_export(request: HttpRequest, export_id: int, body: ChangeIn) -> list[dict[str, Any]]:
    return _changed(request, "exports", export_id, body)


@router.get("/limits/{int:project_id}", response=LimitsIn, summary="How much of a project may be under way and wait")
def get_limits(request: HttpRequest, project_id: int) -> QueueLimits:
    project = get_object_or_404(Project.objects.visible_to(caller(request)), pk=project_id)
    return QueueLimits.objects.filter(project=project).first() or QueueLimits(project=project)


@router.put("/limits/{int:project_id}", response=LimitsIn, summary="Set both limits; for admins of the project")
def put_limits(request: HttpRequest, project_id: int, body: LimitsIn) -> QueueLimits:
    user = caller(request)
    project = get_object_or_404(Project.objects.visible_to(user), pk=project_id)
    return actions.set_limits(user=user, project=project, **body.model_dump())


def _changed(request: HttpRequest, kind: str, pk: int, body: ChangeIn) -> list[dict[str, Any]]:
    user = caller(request)
    work = get_object_or_404(WorkQuerySet(KINDS[kind]).visible_to(user).select_related("project"), pk=pk)
    if body.priority is not None:
        actions.set_priority(user=user, work=work, priority=Priority[body.priority.upper()])
    if body.to is not None:
        actions.move(user=user, work=work, to=body.to)
    return _queues(request)


def _queues(request: HttpRequest) -> list[dict[str, Any]]:
    return [
        {
            "name": queue.name,
            "working": [_entry(each) for each in queue.working],
            "waiting": [_entry(each) for each in queue.waiting],
            "num_waiting": queue.num_waiting,
        }
        for queue in queues_for(caller(request))
    ]


def _entry(entry: Entry) -> dict[str, Any]:
    work = entry.work
    shown = {"kind": entry.kind, "position": entry.position, "held": entry.is_held, "seconds": entry.seconds}
    if work is None:
        hidden = {"id": None, "name": "", "project_id": None, "user": "", "status": "", "priority": "", "since": None}
        return shown | hidden | {"part_of": None}
    return shown | {
        "id": work.pk,
        "name": str(work),
        "project_id": work.project_id,
        "user": str(work.created_by or ""),
        "status": work.status,
        "priority": entry.word,
        "since": entry.since,
        "part_of": entry.parent and entry.parent._asdict(),
    }
