"""Who works on an EVSYS_HOME alone: `manage.py up`, or what may not be done while it runs."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

LOCK_FILE = "up.lock"


class HomeInUse(Exception):
    """Says what its holder left for others to read."""


@contextmanager
def alone_in_home(note: str) -> Iterator[None]:
    """note: what another one is told meanwhile. Raises HomeInUse at once rather than waiting."""
    with (settings.HOME / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise HomeInUse(lock.read().strip()) from None
        lock.truncate(0)
        lock.write(f"{note}\n")
        lock.flush()
        yield
