"""A service that is out of reach for a while: what it was asked is asked again, for so long and no longer, and whoever reads the
run is told. Whatever is asked must be safe to ask twice: an answer may be lost after the service did what it was asked to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from recipes.algorithms.managed_orders import Stopped
from recipes.errors import BackendError, ErrorKind
from recipes.types import LoopState, StopRequest

T = TypeVar("T")

OUTAGES = (ErrorKind.CONNECTION, ErrorKind.TIMEOUT, ErrorKind.SERVER, ErrorKind.RATE_LIMIT, ErrorKind.BAD_ANSWER)
SHORTEST_PAUSE = 0.2
"""Of the longest pause between two questions: how long the first is, and that after any news."""
LONGEST_DEAF_SECONDS = 2.0
"""So soon a second stop is heard."""


class Patience:
    """outage_seconds: how long one outage may last. poll_seconds: the longest pause between two questions. is_ending: what is
    asked ends the bill or brings results home, so that a stop does not cut it short; a second one does."""

    def __init__(self, state: LoopState, tell: Callable[[str, str], None], *, outage_seconds: float, poll_seconds: float) -> None:
        self.is_ending = False
        self.num_outages = 0
        self._state = state
        self._tell = tell
        self._outage_seconds = outage_seconds
        self._poll_seconds = poll_seconds

    def ask(self, work: Callable[[], T]) -> T:
        """Raises what `work` raises, an outage when it has lasted too long, and Stopped when a stop is asked for meanwhile."""
        since: float | None = None
        pause = self._poll_seconds * SHORTEST_PAUSE
        while True:
            try:
                found = work()
            except BackendError as error:
                if error.permanent or error.kind not in OUTAGES:
                    raise
                if since is None:
                    since = time.monotonic()
                    self.num_outages += 1
                    self._tell("warning", f"{error} It is asked again for up to {self._outage_seconds:,.0f} seconds.")
                self._wait(pause, error, since)
                pause = min(self._poll_seconds, pause * 1.5)
            else:
                if since is not None:
                    self._tell("info", "The service answers again.")
                return found

    def _wait(self, pause: float, error: BackendError, since: float) -> None:
        left = self._outage_seconds - (time.monotonic() - since)
        if left <= 0:
            lasted = f"{error} That has lasted for {self._outage_seconds:,.0f} seconds."
            raise BackendError(lasted, permanent=False, kind=error.kind) from error
        state = self._state
        if not self.is_ending:
            state.stop_event.wait(min(pause, left))
            if state.stop_requested is not StopRequest.NONE:
                raise Stopped
            return
        if state.is_leaving:
            raise Stopped
        if state.stop_requested is StopRequest.NOW:
            raise error
        time.sleep(min(pause, left, LONGEST_DEAF_SECONDS))
