"""Columns that take longer to read than a page should wait: read beside it, so that it can say how far that is.

A worker on the same disk has usually read those of a large eval already (`tasks.sweep`); this is for the others: on other disks,
older than the columns' file, or still running.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db import connection

from evsys_web.curation.columns import Key, are_at_hand, columns_of, key_of
from evsys_web.evals.models import EvalRun

SLOW_FROM = 10_000
"""Attempts of one run that take longer than a second."""
WAIT_SECONDS = 0.5
"""A page is kept waiting for so long before it is told how far the reading is."""
FRESH_SECONDS = 60.0
"""What was read this long ago is not begun again, though it is no longer in memory: the page would never come to its end."""

_readings: dict[Key, _Reading] = {}
_guard = threading.Lock()
_turns = threading.Semaphore(2)


class Progress(NamedTuple):
    """Of the runs that are read: attempts so far, of all."""

    num_read: int
    num_attempts: int


@dataclass(eq=False, slots=True)
class _Reading:
    run: EvalRun
    num_read: int = 0
    ended_at: float | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """In a thread. What it raises is raised again where the page asks for the columns itself."""
        try:
            with _turns:
                columns_of(self.run, tell=self.tell)
        finally:
            self.ended_at = time.monotonic()
            self.ended.set()
            connection.close()

    def tell(self, num_read: int) -> None:
        self.num_read = num_read


def still_reading(runs: Sequence[EvalRun]) -> Progress | None:
    """None when the columns of all runs are there or soon read. Begins to read the others, and waits a moment for them."""
    readings = [_begun(run) for run in slow_to_read(runs)]
    until = time.monotonic() + WAIT_SECONDS
    if all(reading.ended.wait(max(0.0, until - time.monotonic())) for reading in readings):
        return None
    return Progress(sum(each.num_read for each in readings), sum(size_of(each.run) for each in readings))


def slow_to_read(runs: Sequence[EvalRun]) -> list[EvalRun]:
    return [run for run in runs if _is_slow(run)]


def _is_slow(run: EvalRun) -> bool:
    """Or being read just now: then its columns would be waited for, even where a worker wrote their file meanwhile."""
    earlier = _readings.get(key_of(run))
    if earlier is not None and earlier.ended_at is None:
        return True
    is_fresh = earlier is not None and earlier.ended_at is not None and time.monotonic() - earlier.ended_at < FRESH_SECONDS
    return size_of(run) >= SLOW_FROM and not is_fresh and not are_at_hand(run)


def _begun(run: EvalRun) -> _Reading:
    with _guard:
        reading = _readings.get(key_of(run))
        if reading is None or reading.ended.is_set():
            for key in [key for key, each in _readings.items() if each.ended.is_set()]:
                del _readings[key]
            reading = _readings[key_of(run)] = _Reading(run)
            threading.Thread(target=reading.read, name=f"columns-{run.pk}", daemon=True).start()
        return reading


def size_of(run: EvalRun) -> int:
    """Attempts that came to an end."""
    return run.num_done + run.num_errors
