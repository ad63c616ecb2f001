"""The admin with many rows: what does each list take, plain, searched, filtered and on its last page, and each page of one row?

    python -m benchmarks.admin [--quick] [--database postgresql://user@host/an-empty-one]

Full: 100,000 rows of every kind that the admin lists (datasets and their versions, runs, evals, benchmarks, curations, filters,
cycles, sweeps, deliveries, tokens, keys, people, audit entries) in 500 projects, on SQLite, in this process: Django's test
client, so that queries can be counted. A dataset has 300 versions and a run 1,000 checkpoints. Goal: no page takes a second of
processor time, the database's included (what others do on the machine is not in it): of PostgreSQL that of the process which
serves this one is read from Linux, so it has to run here, with max_parallel_workers_per_gather=0.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks._product import say, throwaway_product

if TYPE_CHECKING:
    from evsys_web.accounts.models import User

GOAL_SECONDS = 1.0
BATCH = 5_000
SEED = 1_000
"""Rows that the models make; the others are copies."""
NUMBERS = ("number", "notice_id")


class Sizes(NamedTuple):
    rows: int
    projects: int
    versions: int
    checkpoints: int


FULL, QUICK = Sizes(100_000, 500, 300, 1_000), Sizes(1_000, 10, 20, 50)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 rows.")
    parser.add_argument("--database", default="", help="Instead of SQLite: the address of an empty database of its own.")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    with throwaway_product(options.database) as product:
        from django.conf import settings

        settings.ALLOWED_HOSTS = ["*"]
        began = time.perf_counter()
        fill(product.user, sizes)
        say(f"{sizes.rows:,} rows of each kind in {sizes.projects:,} projects; made in {time.perf_counter() - began:.0f} s")
        slow = measure(product.user)
    say(f"{slow} pages take {GOAL_SECONDS:g} s or more")
    return 1 if slow else 0


def fill(user: User, sizes: Sizes) -> None:
    """Rows as the models make them, spread over projects, half a year and every status."""
    from datetime import timedelta

    from django.utils.timezone import now

    from evsys_web.accounts.models import ApiToken, AuditEntry, BackendCredential, Project, User
    from evsys_web.curation.models import Curation, Filter
    from evsys_web.cycles.models import Cycle
    from evsys_web.datasets.models import Dataset, DatasetVersion
    from evsys_web.evals.models import Benchmark, EvalRun
    from evsys_web.notifications.models import Channel, Delivery, Notice
    from evsys_web.runs.models import Checkpoint, TrainingRun
    from evsys_web.runs.status import Status
    from evsys_web.sweeps.models import Sweep

    begin, statuses, num = now() - timedelta(days=180), list(Status.values), sizes.rows
    projects = Project.objects.bulk_create(Project(name=f"team {n}") for n in range(sizes.projects))

    def _values(model: type[Any]) -> Iterator[dict[str, Any]]:
        """What the model's fields want of row n."""
        names = {field.name for field in model._meta.concrete_fields}
        for n in range(min(num, SEED)):
            wanted: dict[str, Any] = {
                "name": f"{model.__name__} {n} of a sweep over learning rates",
                "project": projects[n % len(projects)],
                "created_by": user,
                "user": user,
                "status": statuses[n % len(statuses)],
                "created_at": begin + timedelta(seconds=15_000 * n),
                "config": {"algorithm": {"kind": "sft"}, "backend": {"kind": "local"}},
                "username": f"person {n}" if model is User else "benchmark",
                "verb": ("launched", "stopped", "deleted", "signed in")[n % 4],
                "kind": ("training run", "eval run", "dataset")[n % 3],
                "thing": f"thing {n}",
                "thing_id": str(n),
                "door": "page",
                "changes": {"name": [None, f"thing {n}"]},
                "digest": f"{n:050d}",
                "prefix": f"evs_{n:08d}",
                "sealed": "x" * 100,
                "event_id": f"event {n}",
                "key": f"key {n}",
            }
            kept = {name: value for name, value in wanted.items() if name in names}
            if model is BackendCredential:
                kept["kind"] = "openai"
            yield kept

    def make(model: type[Any], **more: Any) -> None:
        made = (model(**values | {name: value(n) for name, value in more.items()}) for n, values in enumerate(_values(model)))
        model._default_manager.bulk_create(made, batch_size=BATCH)
        _multiply(model, num // SEED)

    for model in (User, ApiToken, BackendCredential, AuditEntry, Dataset, TrainingRun, EvalRun, Filter, Cycle, Sweep):
        make(model)
    first = Dataset.objects.order_by("pk").values_list("pk", flat=True)[0]
    content: dict[str, Any] = {
        "format": lambda n: "messages",
        "number": lambda n: 1,
        "num_rows": lambda n: n,
        "num_bytes": lambda n: n,
        "status": lambda n: "ready",
        "content_hash": lambda n: f"{n:064d}",
    }
    make(DatasetVersion, dataset_id=lambda n: first + n, **content)
    version = DatasetVersion.objects.first()
    make(Benchmark, dataset_version=lambda n: version)
    make(Curation)
    few = ({name: value(n) for name, value in content.items()} | {"number": n + 1_000} for n in range(sizes.versions))
    DatasetVersion.objects.bulk_create(DatasetVersion(dataset_id=first, **values) for values in few)
    run = TrainingRun.objects.order_by("pk")[0]
    Checkpoint.objects.bulk_create(Checkpoint(run=run, name=str(n), step=n, seq=n) for n in range(sizes.checkpoints))
    channel = Channel.objects.create(project=projects[0], kind="email", target="a@example.org", created_by=user)
    make(Notice, project=lambda n: projects[0], occurred_at=lambda n: begin)
    notices = Notice.objects.order_by("pk").values_list("pk", flat=True)[0]
    make(Delivery, channel=lambda n: channel, notice_id=lambda n: notices + n, status=lambda n: "completed")


def _multiply(model: type[Any], times: int) -> None:
    """Copies of the rows by SQL, since models would take minutes; what has to differ gets a number behind it."""
    from django.db import connection, models

    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    unique = {field.name for field in fields if field.unique}
    rules = [rule for rule in model._meta.constraints if getattr(rule, "condition", None) is None]
    unique |= {name for rule in rules for name in getattr(rule, "fields", ())}
    unique = {field.column for field in fields if field.name in unique and isinstance(field, models.CharField)}
    if model._meta.model_name == "datasetversion":
        unique |= {"number"}  # versions 2, 3, … of the same datasets
    if model._meta.model_name == "delivery":
        unique |= {"notice_id"}  # of the next notices
    columns = [field.column for field in fields]
    told = [
        f"{name} + n * {SEED if name == 'notice_id' else 1}"
        if name in NUMBERS and name in unique
        else f"{name} || '-' || n"
        if name in unique
        else f'"{name}"'
        for name in columns
    ]
    names = ", ".join(f'"{name}"' for name in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < {times} - 1) "
            f"INSERT INTO {model._meta.db_table} ({names}) SELECT {', '.join(told)} FROM {model._meta.db_table}, copies "
            f"WHERE {times} > 1"
        )


def measure(user: User) -> int:
    """How many pages miss the goal."""
    from django.contrib import admin
    from django.test import Client
    from django.urls import reverse

    user.is_staff = user.is_superuser = True
    user.save()
    client, slow = Client(), 0
    client.force_login(user)
    client.get("/admin/")  # templates and addresses are read once
    for model, options in sorted(admin.site._registry.items(), key=lambda item: item[0].__name__):
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        there = reverse(f"admin:{name}_changelist")
        pages = {"list": there, "last page": f"{there}?p={_last_page(model, options)}"}
        if options.search_fields:
            pages |= {"search": f"{there}?q=4711", "search, nothing": f"{there}?q=nowhere+to+be+found"}
        pages |= {f"by {field}": f"{there}?{query}" for field, query in _filters(model, options)}
        if first := model._default_manager.order_by("pk").first():
            pages["one"] = reverse(f"admin:{name}_change", args=[first.pk])
        for label, path in pages.items():
            slow += _look(client, f"{model._meta.verbose_name}: {label}", path)
    return slow


def _look(client: Any, label: str, path: str) -> bool:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        began = _processor_seconds()
        response = client.get(path)
        seconds = _processor_seconds() - began
    worst = max((float(query["time"]) for query in queries), default=0)
    assert response.status_code == 200, f"{path}: {response.status_code}"
    size = len(response.content) / 1000
    say(f"{label:45} {seconds * 1000:7.0f} ms {len(queries):4} queries, slowest {worst * 1000:5.0f} ms {size:7.0f} kB")
    return seconds >= GOAL_SECONDS


def _processor_seconds() -> float:
    from django.db import connection

    if connection.vendor == "sqlite":
        return time.process_time()
    with connection.cursor() as cursor:
        server = cursor.execute("SELECT pg_backend_pid()").fetchone()[0]
    ticks = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[11:13]
    return time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _last_page(model: type[Any], options: Any) -> int:
    return -(-int(model._default_manager.count()) // int(options.list_per_page))


def _filters(model: type[Any], options: Any) -> Iterator[tuple[str, str]]:
    row = model._default_manager.order_by("pk").first()
    for field in options.list_filter:
        if isinstance(field, str) and row is not None:
            value: Any = row
            for part in field.split("__"):
                value = getattr(value, part, None)
            if not isinstance(value, str | bool | int) and not hasattr(value, "pk"):
                continue
            exact = f"{field}__id__exact" if hasattr(value, "pk") else f"{field}__exact"
            yield field, f"{exact}={int(value) if isinstance(value, bool) else getattr(value, 'pk', value)}"


if __name__ == "__main__":
    sys.exit(main())
