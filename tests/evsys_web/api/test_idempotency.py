from __future__ import annotations

from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError, connection
from django.test import Client
from django.utils.timezone import now
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import IdempotencyRecord, Project

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api_that_fails")]
Headers = dict[str, str]


def create(headers: Headers, name: str = "one", key: str = "k1") -> Any:
    client = Client(raise_request_exception=False)
    return client.post(
        "/api/v1/things", {"name": name}, content_type="application/json", headers={**headers, "Idempotency-Key": key}
    )


def made(name: str = "one") -> int:
    return Project.objects.filter(name=name).count()


def test_the_same_request_with_the_same_key_gives_the_same_answer_and_makes_one(alice_headers: Headers) -> None:
    first, second = create(alice_headers), create(alice_headers)
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert second["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first
    assert made() == 1


def test_an_answer_cannot_be_read_where_it_is_kept_and_is_not_made_again_when_its_key_is_lost(
    alice_headers: Headers, settings: Settings
) -> None:
    create(alice_headers)
    assert "one" not in IdempotencyRecord.objects.get().body
    settings.SECRET_KEY = "another" * 10
    response = create(alice_headers)
    assert response.status_code == 409 and "SECRET_KEY changed" in response.json()["detail"]
    assert made() == 1


def test_without_a_key_each_request_makes_one(alice_headers: Headers) -> None:
    for _ in range(2):
        Client().post("/api/v1/things", {"name": "one"}, content_type="application/json", headers=alice_headers)
    assert made() == 2
    assert not IdempotencyRecord.objects.exists()


def test_another_body_under_the_same_key_is_a_conflict(alice_headers: Headers) -> None:
    create(alice_headers)
    response = create(alice_headers, "two")
    assert response.status_code == 409
    assert "another request" in response.json()["detail"]
    assert made("two") == 0


def test_keys_of_two_people_do_not_meet(alice_headers: Headers, mallory_headers: Headers) -> None:
    assert create(alice_headers).json()["id"] != create(mallory_headers).json()["id"]


@pytest.mark.parametrize(("name", "status"), [("taken", 409), ("broken", 500), ("far too long", 422)])
def test_a_refusal_frees_the_key(alice_headers: Headers, name: str, status: int) -> None:
    assert create(alice_headers, name).status_code == status
    assert not IdempotencyRecord.objects.exists()
    assert create(alice_headers, "fixed").status_code == 201


def test_after_a_day_the_key_is_new_again(alice_headers: Headers) -> None:
    create(alice_headers)
    IdempotencyRecord.objects.update(created_at=now() - timedelta(hours=25))
    assert "Idempotent-Replayed" not in create(alice_headers)
    assert made() == 2


def test_what_a_request_that_died_may_have_made_is_not_made_again_and_its_key_says_so_for_a_day(alice_headers: Headers) -> None:
    create(alice_headers)
    IdempotencyRecord.objects.update(status=0, body="", created_at=now() - timedelta(minutes=11))
    answer = create(alice_headers)
    assert answer.status_code == 409 and "may have been made" in answer.json()["detail"]
    assert made() == 1
    IdempotencyRecord.objects.update(created_at=now() - timedelta(hours=25))
    assert create(alice_headers).status_code == 201


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("dies", "first", "second"),
    [("before anything is made", 503, 201), ("after it was made", 503, 409), ("when the answer is kept", 201, 201)],
)
def test_a_database_that_goes_away_in_mid_request_makes_nothing_twice(
    alice_headers: Headers, monkeypatch: pytest.MonkeyPatch, dies: str, first: int, second: int
) -> None:
    is_away: list[bool] = []
    make = Project.objects.create_for

    def refuse(execute: Any, *arguments: Any) -> Any:
        if is_away:
            raise OperationalError("database is locked")
        return execute(*arguments)

    def die(*arguments: Any, **options: Any) -> Project:
        made = None if dies == "before anything is made" else make(*arguments, **options)
        is_away.append(True)
        if made is None or dies == "after it was made":
            raise OperationalError("database is locked")
        return made

    monkeypatch.setattr(Project.objects, "create_for", die)
    with connection.execute_wrapper(refuse):
        answer = create(alice_headers)
    assert answer.status_code == first and (first == 201 or answer["Retry-After"])
    monkeypatch.setattr(Project.objects, "create_for", make)
    again = create(alice_headers)
    assert again.status_code == second, again.content
    assert made() == 1 and create(alice_headers).status_code == second
    if first == 201:
        assert again["Idempotent-Replayed"] == "true" and again.json() == answer.json()
    if second == 409:
        assert "may have been made" in again.json()["detail"]
        assert create(alice_headers, "other", key="k2").status_code == 201


def test_a_key_of_no_sensible_length_is_refused(alice_headers: Headers) -> None:
    response = create(alice_headers, key="k" * 201)
    assert response.status_code == 400
    assert "200 characters" in response.json()["detail"]


def test_a_key_does_not_open_the_door(db: None) -> None:
    assert create({}).status_code == 401
    assert create({"Authorization": "Bearer evs_wrong"}).status_code == 401


def test_an_upload_is_known_by_the_content_of_its_file(alice_headers: Headers) -> None:
    def send(content: bytes) -> Any:
        files = {"file": SimpleUploadedFile("rows.jsonl", content)}
        return Client().post("/api/v1/files", files, headers={**alice_headers, "Idempotency-Key": "up"})

    first, second, other = send(b"rows"), send(b"rows"), send(b"ROWS")
    assert first.status_code == 201
    assert first.json() == second.json()
    assert other.status_code == 409
    assert made("rows") == 1


@pytest.mark.django_db(transaction=True)
def test_requests_at_the_same_moment_make_one_and_all_get_its_answer(alice_headers: Headers) -> None:
    answers: list[Any] = []

    def send() -> None:
        try:
            answers.append(create(alice_headers, "slow"))
        finally:
            connection.close()

    threads = [Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert made("slow") == 1


def test_rows_beyond_what_memory_may_hold_are_taken_once_under_a_key(alice_headers: Headers, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    url = "/api/v1/files/body"

    def send(body: bytes) -> Any:
        return Client().post(
            url, body, content_type="application/octet-stream", headers={**alice_headers, "Idempotency-Key": "k"}
        )

    first, second = send(b"x" * 3_000_000), send(b"x" * 3_000_000)
    assert (first.status_code, first.json()["name"]) == (201, "3000000 bytes")
    assert (second["Idempotent-Replayed"], second.json()) == ("true", first.json())
    assert send(b"x" * 2_999_999).status_code == 409


def test_a_body_too_large_to_be_read_is_refused_in_a_sentence(alice_headers: Headers, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    for key in ({}, {"Idempotency-Key": "k"}):
        body = {"name": "x", "inner": [{"rate": 0.5}] * 1000}
        answer = Client().post("/api/v1/things", body, content_type="application/json", headers={**alice_headers, **key})
        assert (answer.status_code, answer["Content-Type"]) == (413, "application/problem+json")
        assert "larger than 10 MB" in answer.json()["detail"]
