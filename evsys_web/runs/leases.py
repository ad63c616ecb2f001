"""Brings back what a worker lost: every worker looks over the runs now and then, so no clock process and no leader is needed.

A run whose lease ran out is marked crashed, never resumed behind its owner's back (unless `auto_resume` says so). A queued run
whose message was lost is announced again by a worker that has nothing to do. A worker that shuts down asks for its run back: the
run saves after its step and returns to the queue, to go on from there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

from django.db import Error, connections, transaction

from evsys_web.runs.models import RunEvent, Status, TrainingRun

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0
ANNOUNCE_AGAIN = timedelta(seconds=10)
MAX_ATTEMPTS = 5
"""A run that has taken its worker down so often is not resumed by itself again."""

Send = Callable[[int], object]


def sweep(worker: str, *, send: Send) -> None:
    """Declare silent runs lost, and announce queued ones if this worker is idle. Safe to run anywhere, at any time, twice."""
    for run in TrainingRun.objects.lost():
        _give_up(run)
    if TrainingRun.objects.active().filter(lease_owner__startswith=f"{worker}/").exists():
        return
    for run in TrainingRun.objects.filter(status=Status.QUEUED).order_by("created_at", "pk")[:20]:
        if run.hint(older_than=ANNOUNCE_AGAIN):
            send(run.pk)


def ask_back(worker: str) -> None:
    """The worker shuts down: its run is to save and return to the queue."""
    for run in TrainingRun.objects.active().filter(lease_owner__startswith=f"{worker}/"):
        run.ask_back()


def _give_up(run: TrainingRun) -> None:
    saved = run.checkpoints.exclude(state_uri="").order_by("-step").first()
    go_on = f"Resume goes on from step {saved.step}." if saved else "Nothing was saved yet: resume begins at the first step."
    with transaction.atomic():
        sentence = f"The worker was lost after step {run.step} (killed, out of memory, or its machine went down). {go_on}"
        if not run.declare_lost(sentence):
            return
        RunEvent.objects.create(run=run, seq=run.next_seqs(1), level="error", step=run.step, message=sentence)
        if run.auto_resume and run.status == Status.CRASHED and not run.stop_requested and run.attempt < MAX_ATTEMPTS:
            run.queue(announced=False)
    logger.warning("Run %s: its worker was lost after step %s", run.pk, run.step)


def _let_go() -> None:
    """Nothing stays open between sweeps: the worker may fork a process at any time, which would share the connection."""
    for connection in connections.all(initialized_only=True):
        connection.close()
        if close_pool := getattr(connection, "close_pool", None):
            close_pool()


class Sweeper:
    """Sweeps from a thread of the worker until told to end; then asks the worker's runs back."""

    def __init__(self, worker: str, *, send: Send) -> None:
        self._worker = worker
        self._send = send
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_sweeping, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending.set()

    def _keep_sweeping(self) -> None:
        while not self._ending.is_set():
            self._try(lambda: sweep(self._worker, send=self._send))
            self._ending.wait(SWEEP_SECONDS)
        self._try(lambda: ask_back(self._worker))

    def _try(self, work: Callable[[], None]) -> None:
        """The database or the broker may be away for a while; the next sweep tries again."""
        try:
            work()
        except (Error, OSError):
            logger.warning("A sweep failed; the next one tries again", exc_info=True)
        finally:
            _let_go()
