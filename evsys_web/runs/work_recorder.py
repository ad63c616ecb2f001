"""What the recorders of all kinds of work share: writing down what work reports, from inside the worker that holds its lease, and
bringing a stop back to it.

One thread owns the database: the working thread only appends to a queue (it may be inside an event loop, where Django refuses
queries, and a write that waits for its turn must not hold up a step). That thread commits what was reported and the renewed
lease in one transaction, then rests: for a multiple of what the commit took, and the longer the more of the processor the work
itself takes. Work that waits for a device or a server loses nothing to a commit, so its steps are rows at once; work that
computes here would lose what each commit takes, so its steps are committed a few at a time. While a step is long the thread
renews the lease and looks for a stop. Steps that are faster than it rests need not wake it, which costs nearly as much as the
rest of the call does. If the lease is gone the work is somebody else's: the worker is told to stop at once, and nothing more is
written.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from types import TracebackType
from typing import Generic, Self, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, transaction

from evsys_web import logs
from evsys_web.outages import MAKE_ROOM, is_full_disk
from evsys_web.runs.models import Standing
from evsys_web.runs.work import Work
from evsys_web.sse import release_connections
from recipes.errors import RecipeError

logger = logging.getLogger(__name__)

REST_SECONDS, COMMIT_SECONDS = 0.025, 0.2
"""It rests so long at least, and at most: viewers are to see a step within 0.3 s."""
REST, REST_WHILE_BUSY = 9.0, 300.0
"""As many times as the commit took: while the processor waits, and what is added while the work takes all of one."""
RETRY_SECONDS = 0.1
WATCH_SECONDS = 0.25
MAX_WAITING = 20_000
"""So many items wait for the database at most; then training waits too."""
FLUSH_SECONDS = 60.0

FULL_DISK = f"The disk of the worker is full. {MAKE_ROOM}, then resume: it goes on from what was saved last."

Item = TypeVar("Item")


class Recorder(Generic[Item]):
    """`with` begins the writing thread; leaving it writes how the work ended."""

    def __init__(self, work: Work) -> None:
        self.standing = Standing(held=True)
        self._work = work
        self._subject = logs.Subject.row(work)
        self._items: deque[Item] = deque()
        self._num_taken = 0
        self._num_committed = 0
        self._hurry = False
        self._is_idle = False
        self._closing = False
        self._broken: BaseException | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._write_in_thread, name=f"recorder-{work.pk}", daemon=True)
        self._renewed = self._pushed = time.monotonic()
        self._is_due = True  # whether the lease is to be pushed on by this commit
        self._rests = 0.0
        self._used = time.process_time()

    def flush(self) -> None:
        """Wait until everything reported so far is committed, or cannot be."""
        with self._changed:
            target = self._num_taken + len(self._items)
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._num_committed >= target or self.is_over, FLUSH_SECONDS)

    @property
    def is_over(self) -> bool:
        """Nothing more can be written: the work was taken away, or the database refuses for good."""
        return not self.standing.held or self._broken is not None

    def _add(self, item: Item) -> None:
        """Without the lock, which the loop would wait for: a deque takes items of many threads. The item goes in before the look
        whether the writing thread sleeps; that one says that it sleeps, then looks whether anything came: one sees the other."""
        if len(self._items) >= MAX_WAITING:
            with self._changed:
                self._changed.wait_for(lambda: len(self._items) < MAX_WAITING or self.is_over, FLUSH_SECONDS)
        self._items.append(item)
        if self._is_idle:
            with self._changed:
                self._is_idle = False
                self._changed.notify_all()

    # what each kind of work says

    def _store(self, items: list[Item]) -> Standing:
        """Write the items and renew the lease, inside one transaction that is open already. Not held: it will be rolled back."""
        raise AssertionError(f"{type(self).__name__} stores nothing")

    def _obey(self) -> None:
        """Hand what was asked on to the work; called after each commit, and when nothing can be written any more."""

    def _tidy(self) -> None:
        """After each commit, and outside of it."""

    def _settle(self) -> None:
        """Before the end is written."""

    def _write_end(self) -> None:
        """The work went through without an error."""
        raise AssertionError(f"{type(self).__name__} does not say how work ends")

    # what the writing thread does

    def _write_in_thread(self) -> None:
        with logs.of(self._subject):
            self._keep_writing()

    def _keep_writing(self) -> None:
        try:
            while self._wait_for_work():
                self._write()
            deadline = time.monotonic() + settings.RUN_LEASE_SECONDS
            while self._items and not self.is_over and time.monotonic() < deadline:
                self._write()
        except Exception as error:  # noqa: BLE001 - the edge of a thread: the work must learn of it, whatever it is
            logger.exception("%s cannot be recorded", self._name)
            self._broken = error
            self._obey()
            with self._changed:
                self._changed.notify_all()
        finally:
            connections.close_all()

    def _wait_for_work(self) -> bool:
        """Rest, then wait for something to write, at most WATCH_SECONDS; False when it is time to end."""
        with self._changed:
            spare = self._rests - (time.monotonic() - self._renewed)
            if spare > 0:
                self._changed.wait_for(lambda: self._hurry or self._closing, spare)
            self._is_idle = True
            self._changed.wait_for(lambda: self._items or self._closing, WATCH_SECONDS)
            self._is_idle = False
            return not self._closing and not self.is_over

    def _write(self) -> None:
        """One transaction with all that waits, or a look at what is asked when nothing does."""
        with self._changed:
            items = [self._items.popleft() for _ in range(len(self._items))]
            self._num_taken += len(items)
            self._hurry = False
        try:
            self.standing = self._commit(items)
        except (OperationalError, InterfaceError):
            # The database may come back before the lease ends; the work goes on meanwhile.
            logger.warning("%s: the database refused %s items; trying again", self._name, len(items), exc_info=True)
            connections.close_all()
            with self._changed:
                self._items.extendleft(reversed(items))
                self._num_taken -= len(items)
            time.sleep(RETRY_SECONDS)
            return
        with self._changed:
            self._num_committed = self._num_taken
            self._changed.notify_all()
        self._obey()
        try:
            if self.standing.held:
                self._tidy()
        except (OperationalError, InterfaceError):  # after the next commit, then; these items are written
            logger.warning("%s: the database refused to tidy up", self._name, exc_info=True)
            connections.close_all()

    def _commit(self, items: list[Item]) -> Standing:
        if not items and time.monotonic() - self._renewed < settings.RUN_LEASE_SECONDS / 6:
            return self._work.look()
        began = time.monotonic()
        self._is_due = began - self._pushed > settings.RUN_LEASE_SECONDS / 30
        with transaction.atomic():
            standing = self._store(items)
            if not standing.held:
                transaction.set_rollback(True)
                return standing
        before, self._renewed = self._renewed, time.monotonic()
        self._pushed = began if self._is_due else self._pushed
        used, self._used = self._used, time.process_time() - time.thread_time()
        busy = min(1.0, (self._used - used) / (self._renewed - before))
        self._rests = rest_after(self._renewed - began, busy)
        return standing

    # the ends of the block

    def __enter__(self) -> Self:
        logs.begin(self._subject)
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Writes the end. A RecipeError is one of the foreseen ends; everything else goes on to the caller."""
        try:
            return self._leave(error)
        finally:
            logs.end(self._subject)

    def _leave(self, error: BaseException | None) -> bool:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if not self.standing.held:
            logger.warning("%s was taken from this worker; nothing more is written", self._name)
            return isinstance(error, RecipeError)
        while True:
            release_connections()  # hours old: the database may have been started anew since
            try:
                return self._end(error or self._broken)
            except (OperationalError, InterfaceError):
                if time.monotonic() - self._renewed > settings.RUN_LEASE_SECONDS:
                    raise
                logger.warning("%s: the database refused how it ended; trying again", self._name, exc_info=True)
                time.sleep(RETRY_SECONDS)

    def _end(self, error: BaseException | None) -> bool:
        """Write how it ended. May be done again: each change is conditional."""
        work = self._work
        self._settle()
        if error is None:
            work.refresh_from_db(fields=["stop_requested", "hand_back"])
            self._write_end()
        elif isinstance(error, RecipeError):
            work.fail(str(error), error_type=type(error).__name__)
            return True
        elif isinstance(error, KeyboardInterrupt):
            work.cancel()
        elif not isinstance(error, Exception):
            work.give_back()
        elif is_full_disk(error):
            work.fail(FULL_DISK, error_type="DiskFull")
            return True
        else:
            self._write_crash(error)
        return False

    def _write_crash(self, error: Exception) -> None:
        detail = "".join(traceback.format_exception(error))
        logger.error("%s crashed\n%s", self._name, detail)
        sentence = f"The program stopped with an error that it did not foresee ({type(error).__name__})."
        self._work.crash(sentence, error_type=type(error).__name__, detail=detail)

    @property
    def _name(self) -> str:
        return f"{type(self._work).__name__} {self._work.pk}"


def rest_after(took: float, busy: float) -> float:
    """Seconds between a commit that took so long and the next. busy: share of one processor that the work took, in [0, 1]."""
    computes = max(0.0, 2 * busy - 1)  # half a processor is still work that mostly waits
    return min(COMMIT_SECONDS, max(REST_SECONDS, took * (REST + REST_WHILE_BUSY * computes)))
