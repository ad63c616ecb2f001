from __future__ import annotations

import time

import pytest
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from evsys_web.celery import app


def test_anybody_may_ask_whether_the_process_lives(client: Client) -> None:
    response = client.get("/health/live")
    assert response.status_code == 200
    assert response.json() == {"status": "alive"}
    assert "no-store" in response["Cache-Control"]


@pytest.mark.django_db
def test_ready_when_every_part_answers(client: Client) -> None:
    response = client.get("/health/ready")
    assert response.status_code == 200, response.content
    assert response.json() == {"status": "ready", "checks": {"database": "ok", "migrations": "ok", "broker": "ok"}}


@pytest.mark.django_db
def test_an_unapplied_migration_is_not_ready_and_says_what_to_run(client: Client) -> None:
    MigrationRecorder.Migration.objects.filter(app="accounts").order_by("-pk")[0].delete()
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert "manage.py migrate" in response.json()["checks"]["migrations"]


@pytest.mark.django_db
def test_a_silent_database_is_a_sentence_without_its_address(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OperationalError("could not connect to postgresql://evsys:secret@db")

    monkeypatch.setattr(connection, "cursor", refuse)
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert "DATABASE_URL" in response.json()["checks"]["database"]
    assert b"secret" not in response.content


@pytest.mark.django_db
def test_an_unreachable_broker_is_said_within_seconds(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    unused_port = "redis://127.0.0.1:9/0"
    original = app.connection_for_write
    monkeypatch.setattr(app, "connection_for_write", lambda **kwargs: original(url=unused_port, **kwargs))
    began = time.monotonic()
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert "CELERY_BROKER_URL" in response.json()["checks"]["broker"]
    assert time.monotonic() - began < 20


def test_health_is_read_only(client: Client) -> None:
    assert client.post("/health/live").status_code == 405
