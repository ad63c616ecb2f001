from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils.timezone import now

from evsys_web.accounts.models import Membership, Project, User

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api_that_fails")]
Headers = dict[str, str]


def make(user: User, count: int, *, at: bool = False) -> None:
    moment = now() - timedelta(days=1)
    for index in range(count):
        project = Project.objects.create(name=f"p{index}", created_at=moment if at else moment + timedelta(seconds=index))
        Membership.objects.create(project=project, user=user)


def walk(headers: Headers, limit: int) -> list[str]:
    names: list[str] = []
    cursor = ""
    for _ in range(50):
        body = Client().get("/api/v1/things", {"limit": str(limit), "cursor": cursor}, headers=headers).json()
        names += [item["name"] for item in body["items"]]
        cursor = body["next_cursor"]
        if cursor is None:
            return names
    raise AssertionError("the pages never end")


@pytest.mark.parametrize("same_moment", [False, True])
def test_walking_the_pages_meets_each_row_once_and_newest_first(alice: User, alice_headers: Headers, same_moment: bool) -> None:
    make(alice, 7, at=same_moment)
    assert walk(alice_headers, 3) == ["Sums", *(f"p{index}" for index in reversed(range(7)))]


def test_rows_made_meanwhile_shift_nothing(alice: User, alice_headers: Headers) -> None:
    make(alice, 4)
    first = Client().get("/api/v1/things", {"limit": 2}, headers=alice_headers).json()
    Project.objects.create_for(alice, name="new")
    second = Client().get("/api/v1/things", {"limit": 2, "cursor": first["next_cursor"]}, headers=alice_headers).json()
    assert [item["name"] for item in first["items"] + second["items"]] == ["Sums", "p3", "p2", "p1"]


def test_the_last_page_has_no_cursor_even_when_it_is_full(alice: User, alice_headers: Headers) -> None:
    make(alice, 3)
    assert Client().get("/api/v1/things", {"limit": 4}, headers=alice_headers).json()["next_cursor"] is None


@pytest.mark.parametrize("cursor", ["x", "!!!!", "W10", "WyJhIiwiYiJd", "bnVsbA", "eyJhIjoxfQ", "WzEsMiwzXQ", "\u00e9"])
def test_a_cursor_of_somebody_elses_making_is_refused_with_a_sentence(alice_headers: Headers, cursor: str) -> None:
    response = Client().get("/api/v1/things", {"cursor": cursor}, headers=alice_headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "cursor"


@pytest.mark.parametrize("limit", ["0", "-1", "201", "many"])
def test_a_page_size_out_of_bounds_is_refused(alice_headers: Headers, limit: str) -> None:
    response = Client().get("/api/v1/things", {"limit": limit}, headers=alice_headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "limit"
