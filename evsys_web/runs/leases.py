"""Brings back what a worker lost: every worker looks over the runs now and then, so no clock process and no leader is needed.

A run whose lease ran out is marked crashed, never resumed behind its owner's back (unless `auto_resume` says so). A queued run
whose message was lost is announced again by a worker that has nothing to do. A worker that shuts down asks for its run back: the
run saves after its step and returns to the queue, to go on from there.

What is made of several runs (a `Chain`) waits whenever one of them has ended. It is announced like a queued run, and at once by
the worker whose run has just ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from weakref import WeakSet

from celery import current_app
from django.apps import apps
from django.conf import settings
from django.db import connections, transaction

from evsys_web import logs
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.turns import in_turn
from evsys_web.runs.work import Chain, Tracked, Work, WorkQuerySet

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0
ANNOUNCE_AGAIN = timedelta(seconds=10)
NUM_ANNOUNCED = 20
MAX_ATTEMPTS = 5
"""A run that has taken its worker down so often is not resumed by itself again."""

Send = Callable[[int], object]
LookOver = Callable[[str], None]
_beside: WeakSet[threading.Thread] = WeakSet()


def sweep(
    worker: str,
    *,
    send: Send | None,
    model: type[Tracked] = TrainingRun,
    concurrency: int = 1,
    silence: Silence | None = None,
) -> None:
    """Declare silent runs lost, and announce waiting ones if this worker has room and does such work (has a `send` for it). Safe
    to run anywhere, at any time, twice. silence: what this worker remembers of leases; without it the time of day decides."""
    if issubclass(model, Work):
        for run in silence.lost(model) if silence else rows(model).lost():
            _give_up(run, stood_still=silence is not None)
    if send is None or is_busy(worker, concurrency):
        return
    for waiting in _waiting(model):
        if waiting.hint(older_than=ANNOUNCE_AGAIN):
            send(waiting.pk)


@contextmanager
def announcing_the_end() -> Iterator[None]:
    """Around the work of a worker: whatever waited for the end of it is told then, instead of by the next sweep."""
    try:
        yield
    finally:
        for model in kinds():
            if issubclass(model, Chain):
                # A broker that is away only costs time.
                transaction.on_commit(partial(_announce_waiting, model), robust=True)


def _waiting(model: type[Tracked]) -> list[Tracked]:
    """The first that a worker may take, in turn."""
    if not issubclass(model, Work):
        return list(rows(model).filter(model.WAITING).order_by("created_at", "pk")[:NUM_ANNOUNCED])
    first = [row.pk for row in in_turn(model)[:NUM_ANNOUNCED]]
    found = rows(model).in_bulk(first)
    return [found[pk] for pk in first if pk in found]


def _announce_waiting(model: type[Chain]) -> None:
    for pk in rows(model).filter(model.WAITING).order_by("created_at", "pk").values_list("pk", flat=True)[:NUM_ANNOUNCED]:
        current_app.tasks[model.TASK].delay(pk)


def ask_back(worker: str) -> None:
    """The worker shuts down: its run is to save and return to the queue."""
    for model in kinds():
        if issubclass(model, Work):
            for run in held_by(worker, model):
                run.ask_back()


def is_busy(worker: str, concurrency: int = 1) -> bool:
    """It does as much at a time as it has processes for."""
    return sum(held_by(worker, model).count() for model in kinds() if issubclass(model, Work)) >= concurrency


def kinds() -> list[type[Tracked]]:
    """Every model whose rows are work, or made of it."""
    return [model for model in apps.get_models() if issubclass(model, Tracked)]


def rows(model: type[Tracked]) -> WorkQuerySet:
    return WorkQuerySet(model)


def held_by(worker: str, model: type[Work]) -> WorkQuerySet:
    return rows(model).active().filter(lease_owner__startswith=f"{worker}/")


def _give_up(run: Work, *, stood_still: bool) -> None:
    with transaction.atomic():
        sentence = run.lost_sentence()
        if not run.declare_lost(sentence, stood_still=stood_still):
            return
        run.note(sentence, level="error")
        if run.wants_to_go_on and run.status == Status.CRASHED and not run.stop_requested and run.attempt < MAX_ATTEMPTS:
            run.queue(announced=False)
    with logs.of(logs.Subject.row(run)):
        logger.warning("%s %s: its worker was lost", type(run).__name__, run.pk)


def begin_beside(work: Callable[[], None], *, name: str) -> threading.Thread:
    """A thread for what takes longer than a sweep may. The pool of connections stays open as long as it lives."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    _beside.add(thread)
    thread.start()
    return thread


def _let_go(*, forks: bool) -> None:
    """Nothing stays open between sweeps in a worker that may fork a process at any time, which would share the connection. Where
    threads or this very process do the work, the pool of connections is theirs as well: closed, it would fail their work."""
    closes_pools = forks and not any(thread.is_alive() for thread in _beside)
    for connection in connections.all(initialized_only=True):
        connection.close()
        if closes_pools and (close_pool := getattr(connection, "close_pool", None)):
            close_pool()


class Silence:
    """Which leases have stood still for as long as a lease lasts, by a clock that only goes forward. A worker that lives renews
    several times in that time. The time of day may jump, and differs between machines, so it decides nothing."""

    def __init__(self) -> None:
        self._seen: dict[type[Work], dict[int, tuple[object, float]]] = {}
        self._looked: dict[type[Work], float] = {}

    def lost(self, model: type[Work]) -> list[Work]:
        """Those held by a worker that was not heard of since this was first asked, or since its last sign."""
        at, before = time.monotonic(), self._seen.get(model, {})
        if at - self._looked.get(model, at) > max(settings.RUN_LEASE_SECONDS / 2, 3 * SWEEP_SECONDS):
            before = {}  # nobody could look, so perhaps nobody could renew: the database was away, or this machine stood still
        held = rows(model).active().filter(model.DONE_HERE).values_list("pk", "lease_owner", "lease_until")
        seen: dict[int, tuple[object, float]] = {}
        for pk, *lease in held:
            known = before.get(pk)
            seen[pk] = known if known is not None and known[0] == lease else (lease, at)
        self._seen[model], self._looked[model] = seen, at
        late = [pk for pk, (_, since) in seen.items() if at - since > settings.RUN_LEASE_SECONDS]
        return [run for run in rows(model).filter(pk__in=late) if seen[run.pk][0] == [run.lease_owner, run.lease_until]]


class Sweeper:
    """Sweeps from a thread of the worker until told to end; then asks the worker's runs back."""

    def __init__(
        self,
        worker: str,
        *,
        sends: Mapping[type[Tracked], Send],
        further: Sequence[LookOver] = (),
        concurrency: int = 1,
        forks: bool = True,
    ) -> None:
        """sends: how to announce a row, for each kind of work that this worker does. further: what is looked over besides,
        given the worker's name. concurrency: how many rows it does at a time. forks: in processes of their own."""
        self._concurrency = concurrency
        self._forks = forks
        self._worker = worker
        self._sends = sends
        self._further = further
        self._silence = Silence()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_sweeping, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending.set()

    def _keep_sweeping(self) -> None:
        while not self._ending.is_set():
            for model in kinds():
                self._try(partial(self._sweep, model))
            for look_over in self._further:
                self._try(partial(look_over, self._worker))
            self._ending.wait(SWEEP_SECONDS)
        self._try(lambda: ask_back(self._worker))

    def _sweep(self, model: type[Tracked]) -> None:
        send = self._sends.get(model)
        sweep(self._worker, send=send, model=model, concurrency=self._concurrency, silence=self._silence)

    def _try(self, work: Callable[[], None]) -> None:
        """The database or the broker may be away for a while; the next sweep tries again. Without this thread the worker would be
        taken for lost, take up nothing and give nothing back, so it outlives whatever it meets."""
        try:
            work()
        except Exception:  # noqa: BLE001 - the edge of a thread; kombu's errors are neither the database's nor the system's
            logger.warning("A sweep failed; the next one tries again", exc_info=True)
        finally:
            _let_go(forks=self._forks)
