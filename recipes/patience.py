"""A service that is out of reach for a while: what it was asked is asked again, for so long and no longer, and whoever reads the
run is told. Whatever is asked must be safe to ask twice: an answer may be lost after the service did what it was asked to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from recipes.errors import BackendError, ErrorKind

T = TypeVar("T")

OUTAGES = (ErrorKind.CONNECTION, ErrorKind.TIMEOUT, ErrorKind.SERVER, ErrorKind.RATE_LIMIT, ErrorKind.BAD_ANSWER)
SHORTEST_PAUSE = 0.2
"""Of the longest pause between two questions: how long the first is, and that after any news."""


class Patience:
    """outage_seconds: how long one outage may last. poll_seconds: the longest pause between two questions. wait(seconds, error):
    how to pause; it raises to give up earlier."""

    def __init__(
        self,
        *,
        wait: Callable[[float, BackendError], None],
        tell: Callable[[str, str], None],
        outage_seconds: float,
        poll_seconds: float,
    ) -> None:
        self.num_outages = 0
        self._wait = wait
        self._tell = tell
        self._outage_seconds = outage_seconds
        self._poll_seconds = poll_seconds

    def ask(self, work: Callable[[], T]) -> T:
        """Raises what `work` raises, an outage only when it has lasted too long."""
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
                left = self._outage_seconds - (time.monotonic() - since)
                if left <= 0:
                    lasted = f"{error} That has lasted for {self._outage_seconds:,.0f} seconds."
                    raise BackendError(lasted, permanent=False, kind=error.kind) from error
                self._wait(min(pause, left), error)
                pause = min(self._poll_seconds, pause * 1.5)
            else:
                if since is not None:
                    self._tell("info", "The service answers again.")
                return found
