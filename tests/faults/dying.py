"""kill -9 at a place in the code: what a worker, or a web process, does is done in a child that is killed when it comes there.

A child is forked, not started: a death costs a tenth of a second. Whole workers die in `tests/evsys_web/test_survival.py`.
"""

from __future__ import annotations

import inspect
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from evsys_web.runs import leases
from evsys_web.runs.leases import sweep
from evsys_web.runs.status import Status
from evsys_web.runs.work import Work

W = TypeVar("W", bound=Work)
PATIENCE_SECONDS = 240.0


class Place(NamedTuple):
    """Where `owner.name` is called for the n-th `time`: before it does anything, or after it has done all."""

    owner: Any
    name: str
    time: int = 1
    after: bool = False

    def lay(self, effect: Callable[..., object]) -> None:
        """Have `effect`, given what the call was, happen there, in this process, for ever."""
        original, calls = getattr(self.owner, self.name), [0]

        def happen(is_after: bool, *arguments: Any) -> None:
            calls[0] += not is_after
            if calls[0] == self.time and is_after == self.after:
                effect(*arguments)

        def called(*arguments: Any, **options: Any) -> Any:
            happen(False, *arguments)
            answer = original(*arguments, **options)
            happen(True, *arguments)
            return answer

        async def awaited(*arguments: Any, **options: Any) -> Any:
            happen(False, *arguments)
            answer = await original(*arguments, **options)
            happen(True, *arguments)
            return answer

        setattr(self.owner, self.name, awaited if inspect.iscoroutinefunction(original) else called)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def do_and_die(work: Callable[[], object], place: Place, *, first: Callable[[], object] | None = None) -> None:
    """`work` in a process that is killed at that place. first: what is done in it before. Raises AssertionError if it did not
    come there."""
    for connection in connections.all(initialized_only=True):  # no process may use another's
        connection.close()
        if close_pool := getattr(connection, "close_pool", None):
            close_pool()
    child = os.fork()
    if child == 0:
        try:
            if first is not None:
                first()
            place.lay(die)
            work()
        except BaseException:  # noqa: BLE001 - the end of this process: nothing may go on into the test that forked it
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(waited(child)) == -signal.SIGKILL, f"it never came to {place.name}"


def died_in(work: Work, stage: str, stands: Mapping[str, str]) -> None:
    """That the row says what the stage's first word says, or what stands for it: a death somewhere else would prove nothing."""
    work.refresh_from_db()
    word = stage.partition(":")[0]
    assert work.status == stands.get(word, word), f"{stage}: it died when {work.status}"


def waited(child: int) -> int:
    """Its exit status; killed when it takes too long, by another signal than ours."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGTERM)
    time.sleep(1)
    os.kill(child, signal.SIGABRT)
    return os.waitpid(child, 0)[1]


@pytest.fixture
def short_lease(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.3 s instead of 30, and no wait before what is queued is announced again."""
    settings.RUN_LEASE_SECONDS = 0.3
    monkeypatch.setattr(leases, "ANNOUNCE_AGAIN", timedelta(0))


def swept(work: W, stage: str, resume: Callable[[W], object]) -> None:
    """What becomes of work whose worker was killed: another one's sweeps find it lost, and a person resumes it; or it still
    waits, and is announced."""
    told: list[int] = []

    def is_let_go() -> bool:
        sweep("another", send=told.append, model=type(work))
        work.refresh_from_db()
        return not work.is_active

    eventually(is_let_go)
    if work.status == Status.CRASHED:
        assert work.error_type == "WorkerLost" and "worker was lost" in work.error, stage
        resume(work)
    else:
        assert work.status == Status.QUEUED and work.pk in told, f"{stage}: {work.status}"


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.02)
