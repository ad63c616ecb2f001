"""How the whole installation does, for whoever runs it: read from the rows, so that every web process says the same."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from celery import current_app
from django.conf import settings
from django.db import connection
from django.db.models import Count, Min
from django.utils.timezone import now

from evsys_web.home.models import Worker
from evsys_web.notifications.models import Delivery, DeliveryStatus
from evsys_web.notifications.tasks import deliver
from evsys_web.runs.leases import kinds, rows
from evsys_web.runs.status import Status
from evsys_web.runs.work import Tracked, Work

NUM_LISTED = 20


class Queue(NamedTuple):
    """num_waiting: rows that wait for a worker; num_workers: those heard of that read it."""

    name: str
    num_waiting: int
    oldest: datetime | None
    num_workers: int

    @property
    def seconds(self) -> float:
        """How long the oldest has waited; 0 when nothing waits."""
        return max(0.0, (now() - self.oldest).total_seconds()) if self.oldest else 0.0

    @property
    def is_unread(self) -> bool:
        return self.num_waiting > 0 and self.num_workers == 0


def bucket_address() -> str:
    """s3://name/prefix where uploads go to a bucket, else empty."""
    options = settings.STORAGES["default"].get("OPTIONS", {})
    bucket = options.get("bucket_name", "")
    return f"s3://{bucket}/{options.get('location', '')}".rstrip("/") if bucket else ""


class Held(NamedTuple):
    """Work that a worker holds."""

    kind: str
    work: Work
    url: str

    @property
    def worker(self) -> str:
        return self.work.lease_owner.rpartition("/")[0]

    @property
    def is_late(self) -> bool:
        """Its lease has run out; a sweep will say that the worker was lost."""
        return self.work.lease_until is not None and self.work.lease_until < now()


class Trouble(NamedTuple):
    """The end of something that went wrong."""

    kind: str
    work: Tracked
    url: str


class Disk(NamedTuple):
    """In bytes, of the file system that EVSYS_HOME lies on."""

    total: int
    free: int

    @property
    def is_short(self) -> bool:
        return self.free < max(self.total // 20, 2_000_000_000)


def queues() -> list[Queue]:
    """By name, those that nobody reads included: that is how one notices."""
    waiting: dict[str, tuple[int, datetime | None]] = dict.fromkeys(("training", "evals", "default", "messages"), (0, None))
    for model in kinds():
        since = "queued_at" if issubclass(model, Work) else "created_at"  # what is resumed waits since then
        found = rows(model).filter(model.WAITING).aggregate(count=Count("pk"), oldest=Min(since))
        _add(waiting, queue_of(model.TASK), found["count"], found["oldest"])
    due = Delivery.objects.filter(status=DeliveryStatus.QUEUED, due_at__lte=now())
    found = due.aggregate(count=Count("pk"), oldest=Min("due_at"))
    _add(waiting, queue_of(deliver.name), found["count"], found["oldest"])
    read = [name for worker in Worker.objects.all() if not worker.is_silent for name in worker.queues]
    return [Queue(name, *counted, read.count(name)) for name, counted in sorted(waiting.items())]


def queue_of(task: str) -> str:
    return str(current_app.amqp.router.route({}, task)["queue"].name)


def _add(waiting: dict[str, tuple[int, datetime | None]], queue: str, count: int, oldest: datetime | None) -> None:
    known, since = waiting.get(queue, (0, None))
    waiting[queue] = (known + count, min(filter(None, (since, oldest)), default=None))


def held() -> list[Held]:
    """What workers hold, the longest first; at most NUM_LISTED of each kind."""
    found = [
        Held(_noun(model), work, address_of(work))
        for model in kinds()
        if issubclass(model, Work)
        for work in rows(model).active().filter(model.DONE_HERE).select_related("project").order_by("begun_at", "pk")[:NUM_LISTED]
    ]
    return sorted(found, key=lambda each: each.work.begun_at or each.work.created_at)


def troubles() -> list[Trouble]:
    """The newest ends that nobody wanted, of every kind of work."""
    found = [
        Trouble(_noun(model), work, address_of(work))
        for model in kinds()
        for work in rows(model)
        .filter(status__in=(Status.FAILED, Status.CRASHED))
        .select_related("project")
        .order_by("-finished_at", "-pk")[:NUM_LISTED]
    ]
    return sorted(found, key=lambda each: each.work.finished_at or each.work.created_at, reverse=True)[:NUM_LISTED]


def counts() -> dict[tuple[str, str], int]:
    """Rows by (kind, status)."""
    return {
        (_noun(model), status): count
        for model in kinds()
        for status, count in rows(model).order_by().values_list("status").annotate(count=Count("pk"))
    }


def disk() -> Disk:
    usage = shutil.disk_usage(settings.HOME)
    return Disk(usage.total, usage.free)


def database_bytes() -> int:
    if connection.vendor == "sqlite":
        name = str(connection.settings_dict["NAME"])
        files = [Path(f"{name}{ending}") for ending in ("", "-wal")]
        return sum(file.stat().st_size for file in files if file.exists())
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        return int(cursor.fetchone()[0])


def address_of(work: Tracked) -> str:
    """Of its page; empty where it has none of its own."""
    find = getattr(work, "get_absolute_url", None)
    return str(find()) if find else ""


def _noun(model: type[Tracked]) -> str:
    return str(model._meta.verbose_name)
