"""Every change of the queue that a page and the API share. Each checks that the caller may, and says no in a sentence.

Moving changes the order of one person's work of one priority; whose turn it is among people is not theirs to move. Whoever made
something, and the admins of its project, may move it and give it low or normal priority; high is the admins' to give.
"""

from __future__ import annotations

from typing import Literal

from django.db import transaction

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_admin, require_maker
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
        record(user, "moved", work, before={"turn": here + 1}, after={"turn": there + 1})
    return True


def set_priority(*, user: User, work: Work, priority: Priority) -> None:
    """Raises RunRefused for what has ended."""
    _require_say(user, work)
    if priority == Priority.HIGH:
        require_admin(user, work.project)  # type: ignore[attr-defined]
    before = work.priority
    with transaction.atomic():
        if not work.prioritize(priority):
            raise RunRefused("It has ended, so it has no priority any more.")
        record(user, "changed the priority of", work, before={"priority": before}, after={"priority": priority})


def set_limits(*, user: User, project: Project, max_running: int | None, max_waiting: int | None) -> QueueLimits:
    """What is under way already goes on, and what waits goes on waiting. For admins."""
    require_admin(user, project)
    values = {"max_running": max_running, "max_waiting": max_waiting}
    with transaction.atomic():
        earlier = QueueLimits.objects.filter(project=project).first()
        limits, _ = QueueLimits.objects.update_or_create(project=project, defaults=values)
        record(user, "set", limits, before=facts(earlier) if earlier else None, after=values)
    return limits


def _require_say(user: User, work: Work) -> None:
    project: Project = work.project  # type: ignore[attr-defined]
    require_maker(user, project, work.created_by_id)  # type: ignore[attr-defined]


def _places(places: list[float]) -> list[float]:
    """The same places, made to differ where two rows came in the same instant."""
    found: list[float] = []
    for place in sorted(places):
        found.append(max(place, found[-1] + 1e-6) if found else place)
    return found
