"""Whose turn it is: which waiting row of its kind a worker takes next. The rows alone say so, on any database and any broker.

A message only says that something waits; whoever gets it takes the row whose turn it is, whichever row it was sent for. In order:
higher priority first; among people of one priority in turn, the one who was served longest ago first, of those never served the
one who waits longest; among the rows of one person in the order of `queue_place`, which they may change. A row whose project is
at its limit waits without holding up others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import NamedTuple, TypeVar, cast

from django.apps import apps
from django.db import transaction
from django.db.models import Count, Max, Subquery

from evsys_web.accounts.models import Project
from evsys_web.runs.models import QueueLimits
from evsys_web.runs.status import ACTIVE, Status
from evsys_web.runs.work import Work, WorkQuerySet
from recipes.errors import ConfigError

W = TypeVar("W", bound=Work)
AFTER_ALL = 1e12
"""Seconds, later than anybody was served."""


class Waiting(NamedTuple):
    """What of a waiting row its turn depends on. user: who made it; None where they are gone, together one person."""

    pk: int
    project: int
    user: int | None
    priority: int
    place: float
    queued_at: datetime


WAITING_FIELDS = ("pk", "project_id", "created_by_id", "priority", "queue_place", "queued_at")


def dealt(waiting: Iterable[Waiting], served_at: Mapping[int | None, datetime]) -> list[Waiting]:
    """The order in which they are taken. served_at: when work of a person was last begun, or gone on
    with; who is not in it never was."""
    turn = {user: at.timestamp() for user, at in served_at.items()}
    order: list[Waiting] = []
    by_priority = sorted(waiting, key=lambda row: (-row.priority, row.place, row.pk))
    for _, rows in groupby(by_priority, key=lambda row: row.priority):
        hands: dict[int | None, list[Waiting]] = {}
        for row in rows:
            hands.setdefault(row.user, []).append(row)
        came = {user: min(row.queued_at for row in hand) for user, hand in hands.items()}  # not by place: that can be moved
        people = sorted(hands, key=lambda user: (turn.get(user, -math.inf), came[user]))
        longest = max(map(len, hands.values()))
        order += [hands[user][number] for number in range(longest) for user in people if number < len(hands[user])]
        turn |= {row.user: AFTER_ALL + number for number, row in enumerate(order)}  # the next priority goes on from there
    return order


def in_turn(model: type[Work]) -> list[Waiting]:
    """The waiting rows of this kind in the order in which workers take them, without those held back by their project's limit."""
    full = full_projects()
    return [row for row in queue_of(model) if row.project not in full]


def queue_of(model: type[Work]) -> list[Waiting]:
    """The same with those that are held back."""
    waiting = [Waiting(*values) for values in _rows(model).filter(model.WAITING).order_by().values_list(*WAITING_FIELDS)]
    begun = _rows(model).filter(created_by__in={row.user for row in waiting if row.user is not None}, begun_at__isnull=False)
    served = begun.order_by().values_list("created_by_id").annotate(Max("begun_at"))
    return dealt(waiting, {user: at for user, at in served} if waiting else {})  # noqa: C416 - rows are tuples of anything


def hand_of(work: Work) -> list[Waiting]:
    """Among which this waiting row may be moved: its person's of its priority, in their order. Empty once it does not wait."""
    model = type(work)
    waiting = _rows(model).filter(model.WAITING)
    its_priority = waiting.filter(pk=work.pk).values("priority")
    mine = waiting.filter(created_by=work.created_by_id, priority=Subquery(its_priority))  # type: ignore[attr-defined]
    return [Waiting(*values) for values in mine.order_by("queue_place", "pk").values_list(*WAITING_FIELDS)]


def take(model: type[W], worker: str, *, named: int | None = None) -> W | None:
    """The row whose turn it is, begun by this worker; None when none waits that may begin. named: this row and no other.
    Two workers who ask at once get two rows."""
    if named is not None:
        return _begin(model, named, worker)
    for row in in_turn(model):
        if (work := _begin(model, row.pk, worker, project=row.project)) is not None:
            return work
    untold(model)
    return None


def untold(model: type[Work]) -> None:
    """A message was used up and nothing taken: what waits is told of anew by the next sweep, not as late as if that had just been
    done."""
    _rows(model).filter(model.WAITING, hinted_at__isnull=False).update(hinted_at=None)


def full_projects() -> set[int]:
    """Those with as much work under way as their limit allows."""
    known = QueueLimits.objects.exclude(max_running=None).values_list("project_id", "max_running")
    limits: dict[int, int] = {project: most for project, most in known if most is not None}
    running = _counts(ACTIVE, list(limits)) if limits else {}
    return {project for project, most in limits.items() if running.get(project, 0) >= most}


def refuse_full_queue(project: Project) -> None:
    """Before something more waits. Raises ConfigError when the project has as much waiting as its limit allows."""
    most = QueueLimits.objects.filter(project=project).values_list("max_waiting", flat=True).first()
    if most is not None and _counts((Status.QUEUED,), [project.pk]).get(project.pk, 0) >= most:
        raise ConfigError(
            f"{project} may have {most} runs and evals waiting at a time, and has. Wait, cancel some, or ask an admin for more.",
            path=("project",),
        )


def kinds_of_work() -> list[type[Work]]:
    return [model for model in apps.get_models() if issubclass(model, Work)]


def _begin(model: type[W], pk: int, worker: str, *, project: int | None = None) -> W | None:
    """project: whose limit to keep. Its row is locked while what runs is counted, so that two workers do not both see room."""
    with transaction.atomic():
        if project is not None:
            list(QueueLimits.objects.select_for_update().filter(project=project))
            if project in full_projects():
                return None
        work = cast("W | None", _rows(model).filter(pk=pk).first())
        return work if work is not None and work.start(worker) else None


def _counts(statuses: Sequence[str], projects: Sequence[int]) -> dict[int, int]:
    """How much work of all kinds stands so, by project."""
    total: dict[int, int] = {}
    for model in kinds_of_work():
        rows = _rows(model).filter(model.DONE_HERE, status__in=statuses, project__in=projects)
        for project, count in rows.order_by().values_list("project_id").annotate(Count("pk")):
            total[project] = total.get(project, 0) + count
    return total


def _rows(model: type[Work]) -> WorkQuerySet:
    return WorkQuerySet(model)
