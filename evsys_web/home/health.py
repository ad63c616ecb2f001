"""Is this process alive, and could it do its work? For the supervisor, proxies and container probes; says nothing of the data."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from kombu.exceptions import KombuError

from evsys_web.celery import app

BROKER_TIMEOUT_SECONDS = 2


@never_cache
@login_not_required
@require_safe
def live(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "alive"})


@never_cache
@login_not_required
@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """200 when every part works, else 503; `checks` holds "ok" or a sentence for each."""
    checks = {name: check() for name, check in CHECKS.items()}
    fine = all(answer == "ok" for answer in checks.values())
    return JsonResponse({"status": "ready" if fine else "not ready", "checks": checks}, status=200 if fine else 503)


def database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "The database does not answer; look at DATABASE_URL."
    return "ok"


def migrations() -> str:
    """The tables are those of this code."""
    try:
        executor = MigrationExecutor(connection)
        waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return "Unknown without the database."
    if waiting:
        return f"{len(waiting)} migrations are not applied; run: python3 manage.py migrate"
    return "ok"


def broker() -> str:
    try:
        with app.connection_for_write(connect_timeout=BROKER_TIMEOUT_SECONDS) as link:
            link.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_TIMEOUT_SECONDS)
    except (OSError, KombuError):  # the transport's own connection errors arrive as kombu's OperationalError
        return "The broker does not answer; look at CELERY_BROKER_URL."
    return "ok"


CHECKS: dict[str, Callable[[], str]] = {"database": database, "migrations": migrations, "broker": broker}
