"""The tables of the release before come along, with the rows that are in them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.evsys_web.home.test_backup import Manage
from tests.evsys_web.home.test_backup import manage as manage
from tests.stack import Stack

OLD_RELEASE = Path(__file__).with_name("release_2026_11_21.sql")
LOOK = """
from django.test import Client
from evsys_web.accounts.models import User
from evsys_web.evals.models import Benchmark
from evsys_web.runs import metrics
from evsys_web.runs.models import TrainingRun
run, waits = TrainingRun.objects.order_by("pk")
browser = Client(HTTP_HOST="localhost")
browser.force_login(User.objects.get())
pages = [run.get_absolute_url(), waits.get_absolute_url(), "/datasets/", Benchmark.objects.get().get_absolute_url(), "/"]
print([browser.get(page).status_code for page in pages])
print(run.status, len(metrics.after(run, 0)), run.checkpoints.count(), waits.status, run.load_config().name)
print(run.begun_at == run.started_at != waits.begun_at)
"""
SEEN = ["[200, 200, 200, 200, 200]", "completed 20 1 queued an old run", "True"]
AS_IT_WAS = """
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
executor = MigrationExecutor(connection)
known = {tuple(each) for each in MIGRATIONS}
newest = {app: max(name for each, name in known if each == app) for app, _ in known}
executor.migrate(list(newest.items()))
left = set(MigrationExecutor(connection).loader.applied_migrations) - known
assert not left, left
"""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An embedded database of that release: a run of 20 points, another in the queue, and what they stand on."""
    with closing(sqlite3.connect(tmp_path / "evsys.sqlite3")) as database:
        database.executescript(OLD_RELEASE.read_text())
        yield database


@pytest.mark.once
def test_on_sqlite(manage: Manage, old: sqlite3.Connection, tmp_path: Path) -> None:
    manage(tmp_path, "migrate")
    assert manage(tmp_path, "shell", "-c", LOOK).stdout.splitlines()[-3:] == SEEN


def test_on_postgresql(old: sqlite3.Connection, tmp_path: Path) -> None:
    """Where rows change tables in one transaction, under constraints that wait for its end. The tables are made by the migrations
    that the release had, the rows are brought over one by one."""
    if not os.environ.get("DATABASE_URL", "").startswith("postgres"):
        assert "django_migrations" in tables(old)
        return
    server = Stack(tmp_path / "home")
    try:
        migrations = old.execute("SELECT app, name FROM django_migrations").fetchall()
        server.manage("shell", "-c", f"MIGRATIONS = {migrations!r}\n{AS_IT_WAS}")
        with psycopg.connect(server.environment["DATABASE_URL"]) as new:
            for table in tables(old) - {"django_migrations", "sqlite_sequence"}:
                bring(table, old, new)
        server.manage("migrate")
        assert server.manage("shell", "-c", LOOK).splitlines()[-3:] == SEEN
    finally:
        server.stop()


def tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def bring(table: str, old: sqlite3.Connection, new: psycopg.Connection) -> None:
    """Every value as text that PostgreSQL reads, and the next number after the last. Foreign keys are looked at in the end."""
    rows = old.execute(f"SELECT * FROM {table}")
    columns = [column for column, *_ in rows.description]
    types = dict(
        new.execute("SELECT column_name, udt_name FROM information_schema.columns WHERE table_name = %s", [table]).fetchall()
    )
    values = sql.SQL(", ").join(sql.SQL("%s" if types[column] == "bytea" else f"%s::text::{types[column]}") for column in columns)
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), names, values)
    for row in rows:
        new.execute(insert, [value if value is None or isinstance(value, bytes) else str(value) for value in row])
    if "id" in columns and types["id"] in ("int4", "int8"):
        last = sql.SQL("SELECT setval(pg_get_serial_sequence({}, 'id'), greatest(max(id), 1)) FROM {}")
        new.execute(last.format(sql.Literal(table), sql.Identifier(table)))
