"""The page of the queue: what works, what waits in which order, and the buttons that change it."""

from __future__ import annotations

from typing import Any, get_args

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from evsys_web.accounts.models import Membership, Project, Role
from evsys_web.accounts.permissions import require_admin, require_editor
from evsys_web.accounts.views import signed_in
from evsys_web.queue.actions import Move, move, set_limits, set_priority
from evsys_web.queue.entries import KINDS, queues_for
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import QueueLimits
from evsys_web.runs.status import Priority
from evsys_web.runs.work import WorkQuerySet

PRIORITIES = {priority.label.lower(): priority for priority in Priority}
MAX_LIMIT = 100_000


@require_safe
@vary_on_headers("HX-Request")
def queue(request: HttpRequest) -> HttpResponse:
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, "queue/_queues.html", _context(request))
    return render(request, "queue/queue.html", {**_context(request), "projects": _projects(request)})


@require_POST
def change(request: HttpRequest, kind: str, pk: int) -> HttpResponse:
    """By `to` (first, up, down, last) or `priority`. Answers with the queue as it is then, where script asked."""
    user = signed_in(request)
    work = get_object_or_404(WorkQuerySet(KINDS[kind]).visible_to(user).select_related("project"), pk=pk)
    require_editor(user, work.project)
    to, priority = request.POST.get("to", ""), PRIORITIES.get(request.POST.get("priority", ""))
    refusal = ""
    try:
        if priority is not None:
            set_priority(user=user, work=work, priority=priority)
        elif to in get_args(Move):
            move(user=user, work=work, to=to)  # type: ignore[arg-type]
    except (RunRefused, PermissionDenied) as error:
        refusal = str(error)
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, "queue/_queues.html", {**_context(request), "refusal": refusal})
    if refusal:
        messages.error(request, refusal)
    return redirect("queue:queue")


@require_POST
def limits(request: HttpRequest, pk: int) -> HttpResponse:
    user = signed_in(request)
    project = get_object_or_404(Project.objects.visible_to(user), pk=pk)
    require_admin(user, project)
    try:
        running, waiting = (_limit(request.POST.get(name, "")) for name in ("max_running", "max_waiting"))
        set_limits(user=user, project=project, max_running=running, max_waiting=waiting)
    except ValueError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"The limits of {project} are kept.")
    return redirect("queue:queue")


def _limit(text: str) -> int | None:
    """Raises ValueError with a sentence."""
    text = text.strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text[:10]) > MAX_LIMIT:
        raise ValueError(f"A limit is a number from 0 to {MAX_LIMIT:,}, or empty for none.")
    return int(text)


def _context(request: HttpRequest) -> dict[str, Any]:
    return {"queues": queues_for(signed_in(request)), "priorities": list(PRIORITIES)}


def _projects(request: HttpRequest) -> list[dict[str, Any]]:
    """Those whose limits the reader sees, and may change where they are admin."""
    user = signed_in(request)
    administered = set(Membership.objects.filter(user=user, role=Role.ADMIN).values_list("project", flat=True))
    projects = list(Project.objects.visible_to(user).order_by("name", "pk").distinct())
    known = {each.project_id: each for each in QueueLimits.objects.filter(project__in=projects)}
    return [
        {"project": project, "limits": known.get(project.pk), "is_owned": user.is_superuser or project.pk in administered}
        for project in projects
    ]
