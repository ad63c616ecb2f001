from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from evsys_web.accounts.models import User
from evsys_web.celery import app
from tests.conftest import signed_in


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


def refused(alice: User, headers: dict[str, str], error: Exception) -> list[Any]:
    """What is answered, on pages and last by the API, where the database refuses everything."""

    def refuse(*args: object) -> None:
        raise error

    browser = signed_in(alice)
    browser.raise_request_exception = False
    with connection.execute_wrapper(refuse):
        return [browser.get("/"), browser.get("/runs/"), browser.get("/api/v1/runs", headers=headers)]


AWAY: dict[str, list[Exception]] = {
    "sqlite": [OperationalError("database is locked"), OperationalError("unable to open database file /secret")],
    "postgresql": [OperationalError("could not connect to postgresql://evsys:secret@db"), InterfaceError("connection closed")],
}


@pytest.mark.django_db
@pytest.mark.parametrize("number", [0, 1])
def test_a_database_that_is_away_is_said_on_pages_and_by_the_api(alice: User, alice_headers: dict[str, str], number: int) -> None:
    answers = refused(alice, alice_headers, AWAY[connection.vendor][number])
    for answer in answers:
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert b"database does not answer" in answer.content and b"secret" not in answer.content
    assert answers[-1].json()["title"] == "Service Unavailable"


@pytest.mark.django_db
@pytest.mark.parametrize("words", ["database or disk is full", "could not extend file: No space left on device"])
def test_a_full_disk_is_said_and_is_no_matter_of_a_moment(alice: User, alice_headers: dict[str, str], words: str) -> None:
    for answer in refused(alice, alice_headers, OperationalError(words)):
        assert answer.status_code == 507 and "Retry-After" not in answer
        assert b"disk" in answer.content and b"prune --dry-run" in answer.content


@pytest.mark.django_db
@pytest.mark.parametrize(
    "words", ["no such table: runs_trainingrun", "attempt to write a readonly database", "too many SQL variables"]
)
def test_what_sqlite_refuses_for_good_is_no_database_that_is_away(
    alice: User, alice_headers: dict[str, str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(connection, "vendor", "sqlite")
    for answer in refused(alice, alice_headers, OperationalError(words)):
        assert answer.status_code == 500 and "Retry-After" not in answer and words.encode() not in answer.content


@pytest.mark.django_db
def test_what_nobody_foresaw_is_no_matter_of_the_database(alice: User) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    browser = signed_in(alice)
    browser.raise_request_exception = False
    with connection.execute_wrapper(fail):
        answer = browser.get("/")
    assert answer.status_code == 500 and b"Something broke on our side" in answer.content
