"""Mail that is sent while nobody waits for it, and what is swept up once a day."""

from __future__ import annotations

import logging
import time

from celery import shared_task

from evsys_web.accounts.reset import send_links
from evsys_web.accounts.sessions import forget_expired_sessions

logger = logging.getLogger(__name__)

EVERY_SECONDS = 24 * 3600.0
_swept_at: list[float] = []


@shared_task(autoretry_for=(OSError,), retry_backoff=10, max_retries=4)
def send_reset_links(email: str) -> None:
    """The links are made here, so that none of them ever lies in the broker."""
    logger.info("links to a new password were sent to %s accounts", send_links(email))


def sweep(worker: str) -> None:
    """When a worker starts, and daily from then on."""
    if _swept_at and time.monotonic() - _swept_at[-1] < EVERY_SECONDS:
        return
    _swept_at[:] = [time.monotonic()]
    forget_expired_sessions()
