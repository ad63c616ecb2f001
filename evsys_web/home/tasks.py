"""Once a day, what settings.KEEP_DAYS lets go."""

from __future__ import annotations

import logging
import time

from celery import shared_task
from django.conf import settings

from evsys_web.home.retention import prune

logger = logging.getLogger(__name__)

EVERY_SECONDS = 24 * 3600.0
_asked_at: list[float] = []


@shared_task
def prune_old() -> None:
    if count := prune():
        logger.info("%s things were older than they are kept, and were deleted", count)


def sweep(worker: str) -> None:
    """Ask for it when a worker starts, and daily from then on; two workers that ask do no harm."""
    if not any(settings.KEEP_DAYS.values()) or (_asked_at and time.monotonic() - _asked_at[-1] < EVERY_SECONDS):
        return
    _asked_at[:] = [time.monotonic()]
    prune_old.delay()
