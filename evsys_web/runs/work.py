"""Work is a row, and the row is the queue: whoever changes `status` by conditional update owns what follows.

The Celery message only hints that a row waits; it may be lost or doubled. A worker owns a row as long as `lease_owner` is its
own mark, and every write of a worker is conditional on that. A chain of such rows is held by nobody: whoever moves it does so
from the place where they saw it. Nothing outside this module writes `status`.

Everything a viewer can be shown of live work takes its `seq` from the row's one counter, so that one number says what a viewer
has seen.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils.timezone import now

from evsys_web.accounts.models import OwnedQuerySet
from evsys_web.encryption import unsaid
from evsys_web.runs.chunks import plain
from evsys_web.runs.status import ACTIVE, ENDED, RESUMABLE, Priority, Standing, Status, Stop


class WorkQuerySet(OwnedQuerySet):
    def newest_first(self) -> Self:
        return self.order_by("-created_at", "-pk")

    def active(self) -> Self:
        """Held by a worker."""
        return self.filter(status__in=ACTIVE)

    def lost(self) -> Self:
        """Held by a worker that has not been heard of for a whole lease."""
        return self.active().filter(self.model.DONE_HERE, lease_until__lt=now())


class Tracked(models.Model):
    """Whatever has one of the status words: how it stands, what went wrong, and how both change. `last_seq` is the newest thing a
    viewer can be shown."""

    DONE_HERE: ClassVar[Q] = Q()
    """Which rows our workers do; the others report in from elsewhere."""

    WAITING: ClassVar[Q] = Q(status=Status.QUEUED)
    """Which rows a worker should be told of."""

    TASK: ClassVar[str] = ""
    """Name of the Celery task that does a row, given its id."""

    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT, editable=False)
    stop_requested = models.PositiveSmallIntegerField(choices=Stop, default=Stop.NONE, editable=False)
    hinted_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="When a worker was last told of it.")

    last_seq = models.PositiveBigIntegerField(default=0, editable=False)
    error_type = models.CharField(max_length=200, blank=True, editable=False)
    error = models.TextField(blank=True, editable=False, help_text="A sentence for the person who started it.")
    error_detail = models.TextField(blank=True, editable=False, help_text="Traceback, for staff.")
    created_at = models.DateTimeField(default=now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def is_done_here(self) -> bool:
        """False for what reports in from elsewhere, or was brought in ready."""
        return True

    @property
    def can_stop(self) -> bool:
        return self.status in (Status.QUEUED, *ACTIVE) and self.is_done_here

    @property
    def can_resume(self) -> bool:
        return self.status in RESUMABLE and self.is_done_here

    def note(self, message: str, *, level: str = "info") -> None:
        """Write an event with a number of its own. Call it inside a transaction."""
        raise AssertionError(f"{type(self).__name__} keeps no events")

    # how it changes: each is one conditional update, True when this caller won

    def complete(self, **values: Any) -> bool:
        return self._end(Status.COMPLETED, **values)

    def cancel(self) -> bool:
        """It stopped because it was asked to."""
        return self._end(Status.CANCELLED)

    def fail(self, error: str, *, error_type: str = "", detail: str = "") -> bool:
        """A foreseen end: the sentence says what to do."""
        return self._end(Status.FAILED, error=storable(error), error_type=error_type, error_detail=storable(detail))

    def crash(self, error: str, *, error_type: str = "", detail: str = "") -> bool:
        """An unforeseen end, seen by whoever did the work."""
        return self._end(Status.CRASHED, error=storable(error), error_type=error_type, error_detail=storable(detail))

    def queue(self, *, announced: bool = True, even_completed: bool = False) -> bool:
        """draft → queued, and again from any end (completed only if asked); what went wrong before is cleared. announced: the
        caller sends the message; otherwise the next sweep does, and the row keeps its place."""
        ends = ENDED if even_completed else RESUMABLE
        return self._change(
            self.DONE_HERE & Q(status__in=(Status.DRAFT, *ends)),
            status=Status.QUEUED,
            stop_requested=Stop.NONE,
            hinted_at=now() if announced else None,
            finished_at=None,
            error="",
            error_type="",
            error_detail="",
            **(self._queued_anew() if announced else {}),
        )

    def _queued_anew(self) -> dict[str, Any]:
        """What else changes when a row enters the queue again."""
        return {}

    def request_stop(self) -> bool:
        """What is queued is cancelled at once; what runs stops after its step, at the second request at once."""
        return (
            self._change(Q(status=Status.QUEUED), status=Status.CANCELLED, finished_at=now())
            or self._change(
                Q(status__in=(Status.STARTING, Status.RUNNING)), status=Status.STOPPING, stop_requested=Stop.AFTER_STEP
            )
            or self._change(Q(status=Status.STOPPING), stop_requested=Stop.NOW)
        )

    def hint(self, *, older_than: timedelta) -> bool:
        """Mark that a worker is being told of this waiting row; False when somebody did so lately."""
        stale = Q(hinted_at=None) | Q(hinted_at__lt=now() - older_than)
        return self._change(self.WAITING & stale, hinted_at=now())

    def next_seqs(self, count: int) -> int:
        """Reserve `count` numbers for a writer without a lease and return the first. Call it inside the writing transaction."""
        self._rows().update(last_seq=F("last_seq") + count)
        self.refresh_from_db(fields=["last_seq"])
        return self.last_seq - count + 1

    def _end(self, status: Status, **values: Any) -> bool:
        raise AssertionError(f"{type(self).__name__} does not say who may end it")

    def _change(self, condition: Q, **values: Any) -> bool:
        won = self._rows().filter(condition).update(**values) == 1
        if won:
            self.refresh_from_db()
        return won

    def _rows(self) -> models.QuerySet[Any]:
        return type(self)._default_manager.filter(pk=self.pk)


class Work(Tracked):
    """A run of any kind, done by the worker that holds its lease."""

    hand_back = models.BooleanField(default=False, editable=False, help_text="The worker shuts down: save, back to the queue.")
    attempt = models.PositiveIntegerField(default=0, editable=False)
    lease_owner = models.CharField(max_length=200, blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)
    priority = models.SmallIntegerField(choices=Priority, default=Priority.NORMAL, editable=False)
    queue_place = models.FloatField(
        default=time.time, editable=False, help_text="Smaller is earlier, among one person's of one priority: see turns.py."
    )
    queued_at = models.DateTimeField(default=now, editable=False)
    begun_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When a worker took it last; `started_at` is the first time."
    )

    LEAVES_BELOW: ClassVar[str | None] = None
    """Where below RUNS_DIR a folder by its number says what it made on other people's machines; None: it makes nothing there."""
    ABANDONED_AFTER: ClassVar[timedelta] = timedelta(hours=24)
    """So long after its end it may still be resumed, and find what it made there."""

    class Meta:
        abstract = True

    # what each kind of work adds

    def lost_sentence(self) -> str:
        """What a person reads when the worker was lost: how far it came, and where it goes on."""
        raise AssertionError(f"{type(self).__name__} has no such sentence")

    @property
    def wants_to_go_on(self) -> bool:
        """After its worker was lost, back into the queue unasked."""
        return False

    def _queued_anew(self) -> dict[str, Any]:
        """Behind everything that waits; what a worker gives back keeps its place."""
        return {"queue_place": time.time(), "queued_at": now()}

    # how it changes: each is one conditional update, True when this caller won

    def place_at(self, place: float) -> bool:
        """Where it stands among its owner's, while it waits."""
        return self._change(Q(status=Status.QUEUED), queue_place=place)

    def prioritize(self, priority: Priority) -> bool:
        """Until it has ended: what comes back to the queue keeps its priority."""
        return self._change(Q(status__in=(Status.QUEUED, *ACTIVE)), priority=priority)

    def start(self, worker: str) -> bool:
        """queued → starting, with a lease for this caller alone. False: another was faster, or it was cancelled."""
        return self._change(
            Q(status=Status.QUEUED),
            status=Status.STARTING,
            attempt=F("attempt") + 1,
            lease_owner=f"{worker}/{uuid.uuid4().hex[:12]}",
            lease_until=lease_end(),
            started_at=Coalesce("started_at", models.Value(now())),
            begun_at=now(),
            finished_at=None,
            hand_back=False,
        )

    def renew(self, *, num_seqs: int = 0, pushes: bool = True, **values: Any) -> Standing:
        """Push the lease on, reserve `num_seqs` numbers (the last is `last_seq`) and set the columns of `values` but for None.
        Call it inside the transaction that writes what the numbers are for. Does not touch a row that this object's lease no
        longer holds. One statement writes and reads; in the ORM it would be two, at four times the cost (0.6 ms). pushes: False
        leaves the lease as it is, which spares the index over it."""
        if not self.lease_owner:
            return Standing(held=False)
        if pushes:
            values["lease_until"] = lease_end()
        database = connections[DEFAULT_DB_ALIAS]  # each look through `connection` would cost 5 µs
        quoted = database.ops.quote_name
        fields = [field for field in self._meta.concrete_fields if values.get(field.name) is not None]
        columns = "".join(f", {quoted(str(field.column))} = %s" for field in fields)
        given = [field.get_db_prep_save(values[field.name], database) for field in fields]
        with database.cursor() as cursor:
            # Names come from the model's own fields, values are parameters.
            statement = RENEW.format(table=quoted(self._meta.db_table), columns=columns)
            cursor.execute(statement, [num_seqs, *given, self.pk, self.lease_owner, *ACTIVE])
            found = cursor.fetchone()
        return Standing(True, found[0], found[1], bool(found[2])) if found else Standing(held=False)

    def look(self) -> Standing:
        """What `renew` would learn, without writing."""
        mine = self._rows().filter(lease_owner=self.lease_owner, status__in=ACTIVE)
        found = mine.values_list("last_seq", "stop_requested", "hand_back").first() if self.lease_owner else None
        return Standing(True, *found) if found else Standing(held=False)

    def run_begun(self, **values: Any) -> bool:
        """starting → running, with these values. A stop asked meanwhile keeps it stopping."""
        return self._change_held(Q(status=Status.STARTING), status=Status.RUNNING, **values) or self._change_held(Q(), **values)

    def give_back(self) -> bool:
        """The worker shuts down: back to the queue, to go on from its last checkpoint."""
        return self._change_held(Q(), status=Status.QUEUED, hinted_at=None, **NO_LEASE)

    def declare_lost(self, error: str, *, stood_still: bool = False) -> bool:
        """Its worker fell silent. Back to the queue if that worker had announced its end, else crashed. stood_still: the
        lease was watched for its whole length, and is lost if it still is as this object saw it; else it must have run out."""
        lease = Q(lease_owner=self.lease_owner, lease_until=self.lease_until) if stood_still else Q(lease_until__lt=now())
        silent = self.DONE_HERE & Q(status__in=ACTIVE) & lease
        return self._change(
            silent & Q(hand_back=True, stop_requested=Stop.NONE), status=Status.QUEUED, hinted_at=None, **NO_LEASE
        ) or self._change(silent, status=Status.CRASHED, error=error, error_type="WorkerLost", finished_at=now(), **NO_LEASE)

    def ask_back(self) -> bool:
        """Its worker shuts down: it is to save after this step and return to the queue."""
        return self._change(Q(status__in=ACTIVE), hand_back=True)

    def _end(self, status: Status, **values: Any) -> bool:
        return self._change_held(Q(), status=status, finished_at=now(), **NO_LEASE, **values)

    def _change_held(self, condition: Q, **values: Any) -> bool:
        held = Q(status__in=ACTIVE, lease_owner=self.lease_owner)
        return bool(self.lease_owner) and self._change(condition & held, **values)


class Chain(Tracked):
    """Work made of other work, one part after the other. Nobody holds it: each change asks that status and `place` are as this
    object saw them, so that of two who come at once one wins and the other does nothing."""

    place = models.PositiveBigIntegerField(default=0, editable=False, help_text="Grows with every move.")

    class Meta:
        abstract = True

    def move(self, **values: Any) -> bool:
        """queued → running, or on within running or stopping, with these values. Call it first in the transaction that makes what
        the new place is for: it keeps everybody else out until that is committed, or undone."""
        status = Status.RUNNING if self.status == Status.QUEUED else self.status
        began = Coalesce("started_at", models.Value(now()))
        return self._change_here(
            Q(status__in=(Status.QUEUED, *ACTIVE)), status=status, hinted_at=None, started_at=began, **values
        )

    def _end(self, status: Status, **values: Any) -> bool:
        return self._change_here(Q(status__in=(Status.QUEUED, *ACTIVE)), status=status, finished_at=now(), **values)

    def _change_here(self, condition: Q, **values: Any) -> bool:
        return self._change(condition & Q(status=self.status, place=self.place), place=F("place") + 1, **values)


def storable(text: str) -> str:
    """No database keeps half a surrogate pair, PostgreSQL no NUL, and errors and events carry what a model or a library said; or
    a server, which may repeat the key that it was sent."""
    return unsaid(text).replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def storable_json(value: Any) -> Any:
    """The same throughout what is to be JSON; numbers that JSON lacks become "NaN", "Infinity", "-Infinity", foreign objects
    their text."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): storable_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(each) for each in value]
    if isinstance(value, float):
        return plain(value)
    return value if value is None or isinstance(value, bool | int) else storable(str(value))


NO_LEASE: dict[str, Any] = {"lease_owner": "", "lease_until": None}

RENEW = """UPDATE {table}
SET last_seq = last_seq + %s{columns}
WHERE id = %s AND lease_owner = %s AND status IN (%s, %s, %s)
RETURNING last_seq, stop_requested, hand_back"""


def lease_end() -> datetime:
    """A lease taken now ends then."""
    return now() + timedelta(seconds=settings.RUN_LEASE_SECONDS)
