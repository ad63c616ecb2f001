"""The numbers of `operations.py` in Prometheus' text format, followed by how long answers took."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evsys_web.home import operations
from evsys_web.home.models import Worker
from evsys_web.measuring import numbers


class Facts(Collector):
    """Asked anew at each scrape: of the rows, which say the same whichever process answers."""

    def collect(self) -> Iterator[Metric]:
        began = time.perf_counter()
        yield from _of_queues()
        yield from _of_workers()
        work = GaugeMetricFamily("evsys_work", "Rows of work, by kind and status.", labels=["kind", "status"])
        for (kind, status), count in operations.counts().items():
            work.add_metric([kind, status], count)
        yield work
        late = sum(each.is_late for each in operations.held())
        yield GaugeMetricFamily("evsys_late_leases", "Work whose worker has fallen silent.", value=late)
        disk = operations.disk()
        yield GaugeMetricFamily("evsys_disk_free_bytes", "Free on the file system of EVSYS_HOME.", value=disk.free)
        yield GaugeMetricFamily("evsys_disk_total_bytes", "Size of the file system of EVSYS_HOME.", value=disk.total)
        yield GaugeMetricFamily("evsys_database_bytes", "Size of the database.", value=operations.database_bytes())
        took = time.perf_counter() - began
        yield GaugeMetricFamily("evsys_collect_seconds", "What reading these numbers took.", value=took)


def _of_queues() -> Iterator[Metric]:
    waiting = GaugeMetricFamily("evsys_queue_waiting", "Rows that wait for a worker.", labels=["queue"])
    oldest = GaugeMetricFamily("evsys_queue_oldest_seconds", "How long the oldest of them has waited.", labels=["queue"])
    readers = GaugeMetricFamily("evsys_queue_workers", "Workers lately heard of that read it.", labels=["queue"])
    for queue in operations.queues():
        waiting.add_metric([queue.name], queue.num_waiting)
        oldest.add_metric([queue.name], queue.seconds)
        readers.add_metric([queue.name], queue.num_workers)
    yield from (waiting, oldest, readers)


def _of_workers() -> Iterator[Metric]:
    seen = GaugeMetricFamily("evsys_worker_seen_timestamp_seconds", "When a worker was last heard of.", labels=["worker"])
    for worker in Worker.objects.all():
        seen.add_metric([worker.name], worker.seen_at.timestamp())
    yield seen


def exposition() -> bytes:
    registry = CollectorRegistry()
    registry.register(Facts())
    return generate_latest(registry) + numbers()
