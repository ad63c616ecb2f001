"""Keeps a few child processes alive for `manage.py up`, and takes all of them down with it. Knows nothing of Django.

A child that ends is started again, later each time. On SIGTERM, SIGHUP or Ctrl-C every child gets SIGTERM, a grace, and then
its whole process group is killed; a second Ctrl-C kills at once. On Linux a supervisor that was killed itself takes its
children along.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.2
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 30.0
HEALTHY_AFTER_SECONDS = 60.0
PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One program to keep alive. `delay` is how long its next restart waits."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_after: float = 0.0
    delay: float = FIRST_DELAY_SECONDS

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            env=dict(self.environment),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, and the group can be killed as one
            preexec_fn=die_with(os.getpid()),
        )
        self.started_at = time.monotonic()

    def plan_restart(self, now: float) -> float:
        """Forget the ended process; returns the seconds until the next start, doubled each time unless it had lived well."""
        self.process = None
        if now - self.started_at > HEALTHY_AFTER_SECONDS:
            self.delay = FIRST_DELAY_SECONDS
        waiting, self.delay = self.delay, min(self.delay * 2, LONGEST_DELAY_SECONDS)
        self.start_after = now + waiting
        return waiting

    def signal_group(self, number: signal.Signals) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


class Supervisor:
    def __init__(self, children: Sequence[Child], *, say: Callable[[str], None], grace_seconds: float = 8.0) -> None:
        self.children = children
        self.say = say
        self.grace_seconds = grace_seconds
        self.stop_signals = 0

    def run(self, on_tick: Callable[[], None] = lambda: None) -> None:
        """Until a stop signal. `on_tick` is called a few times a second."""
        previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            while not self.stop_signals:
                self._start_what_is_due()
                on_tick()
                time.sleep(POLL_SECONDS)
        finally:
            self._stop_all()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop_signals += 1

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                code = child.process.returncode
                child.signal_group(signal.SIGKILL)  # what it left behind
                waiting = child.plan_restart(now)
                self.say(f"The {child.name} ended ({describe(code)}); starting it again in {waiting:.0f} s.")
            if child.process is None and now >= child.start_after:
                child.start()

    def _stop_all(self) -> None:
        """TERM to each, KILL to the group of whoever is left after the grace; a further stop signal ends the grace."""
        asked = self.stop_signals
        for child in self.children:
            if child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + self.grace_seconds
        while self._alive() and time.monotonic() < deadline and self.stop_signals == asked:
            time.sleep(POLL_SECONDS / 4)
        for child in self.children:
            child.signal_group(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()

    def _alive(self) -> bool:
        return any(child.process is not None and child.process.poll() is None for child in self.children)


def die_with(parent: int) -> Callable[[], None]:
    """For the forked child: ask Linux for SIGKILL when the parent goes, and go at once if it is gone already."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def in_child() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return in_child


def describe(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
