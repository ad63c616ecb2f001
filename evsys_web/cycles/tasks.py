"""What a worker does for a cycle. It never waits: a message that comes too early, or twice, finds nothing to do."""

from __future__ import annotations

from celery import shared_task
from django.db import InterfaceError, OperationalError

from evsys_web.cycles.advance import advance, give_up


@shared_task
def advance_cycle(cycle_id: int) -> None:
    """Make the next part, if the one before has ended."""
    try:
        advance(cycle_id)
    except (InterfaceError, OperationalError):  # the database may come back; the next sweep announces the cycle again
        raise
    except Exception as error:
        give_up(cycle_id, error)
        raise
