"""Mail that is sent while nobody waits for it, and what is swept up once a day."""

from __future__ import annotations

import logging
import time
from typing import Any

from axes.models import AccessAttempt
from celery import shared_task
from django.conf import settings
from django.utils.timezone import now

from evsys_web.accounts.models import IdempotencyRecord
from evsys_web.accounts.reset import send_links
from evsys_web.accounts.sessions import forget_expired_sessions

logger = logging.getLogger(__name__)

EVERY_SECONDS = 24 * 3600.0
FIRST_WAIT_SECONDS, MOST_RETRIES = 10, 4
_swept_at: list[float] = []


@shared_task(bind=True, max_retries=MOST_RETRIES)
def send_reset_links(self: Any, email: str, only: list[int] | None = None) -> None:
    """The links are made here, so that none of them ever lies in the broker. only: the people whose letter did not go before."""
    sent = send_links(email, only=only)
    logger.info("links to a new password were sent to %s accounts", sent.num)
    if sent.failed:
        wait = FIRST_WAIT_SECONDS * 2**self.request.retries
        raise self.retry(exc=sent.error, kwargs={"email": email, "only": sent.failed}, args=[], countdown=wait)


def sweep(worker: str) -> None:
    """When a worker starts, and daily from then on."""
    if _swept_at and time.monotonic() - _swept_at[-1] < EVERY_SECONDS:
        return
    _swept_at[:] = [time.monotonic()]
    forget_expired_sessions()
    IdempotencyRecord.objects.outdated(now()).delete()
    AccessAttempt.objects.filter(attempt_time__lt=now() - settings.AXES_COOLOFF_TIME).delete()
