"""Which workers there are: each writes down now and then that it lives."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from django.db import models
from django.utils.timezone import now

SILENT_AFTER = timedelta(seconds=45)


class Worker(models.Model):
    """One Celery worker, by the name that leases begin with. `queues`: those that it reads."""

    name = models.CharField(max_length=200, unique=True)
    process_id = models.PositiveBigIntegerField()
    queues = models.JSONField(default=list)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_silent(self) -> bool:
        """Stopped, killed, or cut off from the database."""
        return self.seen_at < now() - SILENT_AFTER
