"""A token makes so many calls in a minute, is told how many are left, and then when to come back."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.core.cache import CacheHandler, caches
from django.test import Client
from django.test.client import RequestFactory

from evsys_web import rates
from evsys_web.accounts.models import ApiToken, User
from evsys_web.api.rates import TokenThrottle

Headers = dict[str, str]


@pytest.fixture(autouse=True)
def _three_a_minute(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.API_RATE = 3
    caches["rates"].clear()
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_015.0)  # 55 seconds into a minute


def test_every_answer_tells_what_is_left_and_the_fourth_is_refused(client: Client, alice_headers: Headers) -> None:
    told = [client.get("/api/v1/runs", headers=alice_headers) for _ in range(4)]
    assert [answer.status_code for answer in told] == [200, 200, 200, 429]
    assert [answer["X-RateLimit-Remaining"] for answer in told] == ["2", "1", "0", "0"]
    refused = told[-1]
    assert refused["Retry-After"] == refused["X-RateLimit-Reset"] == "5" and refused["X-RateLimit-Limit"] == "3"
    assert refused["Content-Type"] == "application/problem+json" and "Retry-After" in refused.json()["detail"]


def test_a_refused_create_makes_nothing_and_goes_through_with_its_key_a_minute_later(
    client: Client, alice_headers: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = alice_headers | {"Idempotency-Key": "k"}

    def create() -> int:
        body = {"name": "sums"}
        return client.post("/api/v1/datasets", body, content_type="application/json", headers=headers).status_code

    for _ in range(3):
        client.get("/api/v1/runs", headers=alice_headers)
    assert create() == 429
    monkeypatch.setattr(rates.time, "time", lambda: 1_000_021.0)
    assert create() == 201


def test_an_answer_that_is_given_again_is_counted_like_any_other(client: Client, alice_headers: Headers) -> None:
    headers = alice_headers | {"Idempotency-Key": "k"}
    body = {"data": {"name": "sums"}, "content_type": "application/json", "headers": headers}
    told = [client.post("/api/v1/datasets", **body) for _ in range(4)]
    assert [answer.status_code for answer in told] == [201, 201, 201, 429]
    assert [answer["X-RateLimit-Remaining"] for answer in told] == ["2", "1", "0", "0"]
    assert told[2]["Idempotent-Replayed"] == "true" and "Idempotent-Replayed" not in told[3]


def test_one_token_does_not_use_up_anothers(client: Client, alice_headers: Headers, bob: User, mallory_headers: Headers) -> None:
    for _ in range(4):
        client.get("/api/v1/runs", headers=mallory_headers)
    assert client.get("/api/v1/runs", headers=alice_headers).status_code == 200


def test_nought_is_any_number(client: Client, alice_headers: Headers, settings: Any) -> None:
    settings.API_RATE = 0
    answers = [client.get("/api/v1/runs", headers=alice_headers) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200} and "X-RateLimit-Limit" not in answers[0]


def test_threads_count_together(alice: User, settings: Any) -> None:
    settings.API_RATE = 50
    token, _ = ApiToken.objects.issue(alice, name="t")
    allowed: list[bool] = []

    def ask() -> None:
        for _ in range(20):
            request = RequestFactory().get("/")
            request.auth = token  # type: ignore[attr-defined]
            allowed.append(TokenThrottle().allow_request(request))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert (len(allowed), sum(allowed)) == (80, 50)


def test_a_call_is_answered_uncounted_while_the_counter_is_away(
    client: Client, alice_headers: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    monkeypatch.setattr(rates, "caches", CacheHandler({"rates": nobody}))
    for _ in range(5):
        answer = client.get("/api/v1/runs", headers=alice_headers)
        assert answer.status_code == 200 and "X-RateLimit-Limit" not in answer.headers
