"""A worker's heartbeat: one of settings.SWEEPS, so that it stops when the sweeping does."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import current_app
from django.utils.timezone import now

from evsys_web.home.models import Worker

BEAT_EVERY = timedelta(seconds=15)
FORGOTTEN_AFTER = timedelta(hours=1)


def beat(worker: str) -> None:
    """Reads at each sweep, writes a row every quarter of a minute."""
    own = Worker.objects.filter(name=worker, process_id=os.getpid())
    if own.filter(seen_at__gt=now() - BEAT_EVERY).exists():
        return
    if own.update(seen_at=now()) == 0:
        values = {"process_id": os.getpid(), "queues": sorted(current_app.amqp.queues.consume_from)}
        Worker.objects.update_or_create(name=worker, defaults={**values, "started_at": now(), "seen_at": now()})
    Worker.objects.filter(seen_at__lt=now() - FORGOTTEN_AFTER).delete()
