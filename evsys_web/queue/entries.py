"""What works and what waits, as a page and the API show it: whose, since when, for how long, and what may be done about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from evsys_web.accounts.models import Membership, Project, Role, User
from evsys_web.checkpoints.models import Export
from evsys_web.cycles.models import Cycle
from evsys_web.evals.models import EvalRun
from evsys_web.queue.estimates import seconds_left
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.status import Priority
from evsys_web.runs.turns import full_projects, queue_of
from evsys_web.runs.work import Work, WorkQuerySet
from evsys_web.sweeps.models import SweepRun

SHOWN = 100
KINDS: dict[str, type[Work]] = {"runs": TrainingRun, "evals": EvalRun, "exports": Export}
QUEUES = {"training": "runs", "evals": "evals", "default": "exports"}
NOUNS = {"runs": "run", "evals": "eval", "exports": "export"}


class Parent(NamedTuple):
    """What it is a part of: a cycle or a sweep."""

    noun: str
    name: str
    url: str


class Entry(NamedTuple):
    """One row of work. work: None for what the reader may not see, of which only the place is told. position: from 1 among what
    waits, None for what works. is_held: its project has as much under way as it may. seconds: what is left, None if not known.
    can_move, can_rise, can_sink: the reader may change its place, and there is one to go to. can_prioritize: and its priority."""

    kind: str
    work: Any
    position: int | None = None
    is_held: bool = False
    seconds: float | None = None
    parent: Parent | None = None
    can_move: bool = False
    can_rise: bool = False
    can_sink: bool = False
    can_prioritize: bool = False
    can_rush: bool = False

    @property
    def noun(self) -> str:
        return NOUNS[self.kind]

    @property
    def since(self) -> datetime:
        """When it began, or began to wait."""
        work = self.work
        since: datetime = (work.begun_at or work.created_at) if self.position is None else work.queued_at
        return since

    @property
    def word(self) -> str:
        return Priority(self.work.priority).label.lower()


class Queue(NamedTuple):
    """name: as workers are told (`-Q`). num_waiting: more than are listed when there are very many."""

    name: str
    working: list[Entry]
    waiting: list[Entry]
    num_waiting: int


def queues_for(user: User) -> list[Queue]:
    return [_queue(name, kind, user) for name, kind in QUEUES.items()]


def _queue(name: str, kind: str, user: User) -> Queue:
    model = KINDS[kind]
    visible = WorkQuerySet(model).visible_to(user).select_related("project", "created_by").defer("error_detail")
    active = list(visible.active().filter(model.DONE_HERE).order_by("begun_at", "pk").distinct()[:SHOWN])
    unseen = WorkQuerySet(model).active().filter(model.DONE_HERE).count() - len(active)
    order = queue_of(model)
    found = visible.in_bulk([row.pk for row in order[:SHOWN]])
    parents = _parents(kind, [*(work.pk for work in active), *found])
    owned, editable, full = _owned(user), set(Project.objects.editable_by(user).values_list("pk", flat=True)), full_projects()
    groups = _groups(order)
    working = [Entry(kind, work, seconds=seconds_left(work), parent=parents.get(work.pk)) for work in active]
    working += [Entry(kind, None)] * max(0, unseen)
    waiting = []
    for position, row in enumerate(order[:SHOWN], 1):
        work = found.get(row.pk)
        if work is None:
            waiting.append(Entry(kind, None, position))
            continue
        is_owner = user.is_superuser or row.project in owned
        may = is_owner or (row.user == user.pk and row.project in editable)
        siblings = groups[row.user, row.priority]
        waiting.append(
            Entry(
                kind,
                work,
                position,
                is_held=row.project in full,
                seconds=seconds_left(work),
                parent=parents.get(row.pk),
                can_move=may and len(siblings) > 1,
                can_rise=may and siblings[0] != row.pk,
                can_sink=may and siblings[-1] != row.pk,
                can_prioritize=may,
                can_rush=is_owner,
            )
        )
    return Queue(name, working, waiting, len(order))


def _groups(order: Iterable[Any]) -> dict[tuple[int | None, int], list[int]]:
    """The rows among which one may be moved: one person's of one priority, in turn."""
    groups: dict[tuple[int | None, int], list[int]] = {}
    for row in order:
        groups.setdefault((row.user, row.priority), []).append(row.pk)
    return groups


def _owned(user: User) -> set[int]:
    return set(Membership.objects.filter(user=user, role=Role.ADMIN).values_list("project", flat=True))


def _parents(kind: str, pks: Sequence[int]) -> dict[int, Parent]:
    """The cycle or the sweep that each of these is a part of."""
    parents: dict[int, Parent] = {}
    if kind in ("runs", "evals"):
        field = "current_run" if kind == "runs" else "current_eval"
        for cycle in Cycle.objects.filter(**{f"{field}__in": pks}):
            parents[getattr(cycle, f"{field}_id")] = Parent("cycle", cycle.name, cycle.get_absolute_url())
    if kind == "runs":
        for place in SweepRun.objects.filter(run__in=pks).select_related("sweep"):
            parents[place.run_id] = Parent("sweep", place.sweep.name, place.sweep.get_absolute_url())
    return parents
