"""Every change of the queue that a page and the API share. Each checks that the caller may, and says no in a sentence.

Moving changes the order of one person's work of one priority; whose turn it is among people is not theirs to move. Whoever made
something, and the owners of its project, may move it and give it low or normal priority; high is the owners' to give.
"""

from __future__ import annotations

from typing import Literal

from django.core.exceptions import PermissionDenied
from django.db import transaction

from evsys_web.accounts.actions import require_membership
from evsys_web.accounts.models import Project, User
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import QueueLimits
from evsys_web.runs.status import Priority
from evsys_web.runs.turns import queue_of
from evsys_web.runs.work import Work, WorkQuerySet

Move = Literal["first", "up", "down", "last"]


def move(*, user: User, work: Work, to: Move) -> bool:
    """False when it stands there already. Raises RunRefused for what does not wait."""
    _require_say(user, work)
    with transaction.atomic():
        order = queue_of(type(work))
        row = next((row for row in order if row.pk == work.pk), None)
        if row is None:
            raise RunRefused("It does not wait any more, so it has no place in the queue.")
        group = [other for other in order if (other.user, other.priority) == (row.user, row.priority)]
        here = group.index(row)
        there = {"first": 0, "up": max(0, here - 1), "down": min(len(group) - 1, here + 1), "last": len(group) - 1}[to]
        if here == there:
            return False
        moved = [other for other in group if other is not row]
        moved.insert(there, row)
        rows = WorkQuerySet(type(work)).in_bulk([other.pk for other in moved])
        for other, place in zip(moved, _places([each.place for each in group]), strict=True):
            if other.pk in rows and other.place != place:
                rows[other.pk].place_at(place)
    return True


def set_priority(*, user: User, work: Work, priority: Priority) -> None:
    """Raises RunRefused for what has ended."""
    _require_say(user, work)
    if priority == Priority.HIGH:
        require_membership(user, work.project, owner=True)  # type: ignore[attr-defined]
    if not work.prioritize(priority):
        raise RunRefused("It has ended, so it has no priority any more.")


def set_limits(*, user: User, project: Project, max_running: int | None, max_waiting: int | None) -> QueueLimits:
    """What is under way already goes on, and what waits goes on waiting. For owners."""
    require_membership(user, project, owner=True)
    limits, _ = QueueLimits.objects.update_or_create(
        project=project, defaults={"max_running": max_running, "max_waiting": max_waiting}
    )
    return limits


def _require_say(user: User, work: Work) -> None:
    project: Project = work.project  # type: ignore[attr-defined]
    require_membership(user, project)
    if work.created_by_id != user.pk:  # type: ignore[attr-defined]
        try:
            require_membership(user, project, owner=True)
        except PermissionDenied:
            raise PermissionDenied("Only whoever started it, and owners of its project, may change its place.") from None


def _places(places: list[float]) -> list[float]:
    """The same places, made to differ where two rows came in the same instant."""
    found: list[float] = []
    for place in sorted(places):
        found.append(max(place, found[-1] + 1e-6) if found else place)
    return found
