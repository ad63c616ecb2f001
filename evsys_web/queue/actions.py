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
from evsys_web.queue.places import new_places
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import QueueLimits
from evsys_web.runs.status import Priority
from evsys_web.runs.turns import hand_of
from evsys_web.runs.work import Work, WorkQuerySet

Move = Literal["first", "up", "down", "last"]


def move(*, user: User, work: Work, to: Move) -> bool:
    """False when it stands there already. Raises RunRefused for what does not wait."""
    _require_say(user, work)
    with transaction.atomic():
        _wait_for_other_moves(work)
        hand = hand_of(work)
        here = next((number for number, row in enumerate(hand) if row.pk == work.pk), None)
        if here is None:
            raise RunRefused("It does not wait any more, so it has no place in the queue.")
        there = {"first": 0, "up": max(0, here - 1), "down": min(len(hand) - 1, here + 1), "last": len(hand) - 1}[to]
        if here == there:
            return False
        hand.insert(there, hand.pop(here))
        places = {hand[number].pk: place for number, place in new_places([row.place for row in hand], there).items()}
        for row in WorkQuerySet(type(work)).filter(pk__in=places):
            row.place_at(places[row.pk])
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


def _wait_for_other_moves(work: Work) -> None:
    """One move after the other among one person's rows, to the end of this transaction: each sees what the other left. SQLite
    has one writer anyway."""
    list(User.objects.select_for_update(no_key=True).filter(pk=work.created_by_id).values_list("pk"))  # type: ignore[attr-defined]
