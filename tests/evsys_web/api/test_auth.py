from __future__ import annotations

import pytest
from django.test import Client

from evsys_web.accounts.models import ApiToken, Project, User

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api_that_fails")]
Headers = dict[str, str]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer evs_wrong", "Basic YTpi", "Token evs_wrong", "bearer \u00e9"]
)
def test_without_a_valid_token_nothing_opens(header: str) -> None:
    response = Client().get("/api/v1/things", headers={"Authorization": header} if header else {})
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert "API tokens page" in response.json()["detail"]


def test_a_session_does_not_open_the_api(alice_client: Client) -> None:
    assert alice_client.get("/api/v1/things").status_code == 401


def test_a_token_acts_as_its_owner(alice_headers: Headers, mallory_headers: Headers) -> None:
    mine = Client().get("/api/v1/things", headers=alice_headers).json()["items"]
    hers = Client().get("/api/v1/things", headers=mallory_headers).json()["items"]
    assert [item["name"] for item in mine] == ["Sums"]
    assert [item["name"] for item in hers] == ["Mallory's"]


def test_a_reading_token_reads_and_does_not_write(read_only_headers: Headers) -> None:
    assert Client().get("/api/v1/things", headers=read_only_headers).status_code == 200
    before = Project.objects.count()
    for headers in (read_only_headers, {**read_only_headers, "Idempotency-Key": "k"}):
        response = Client().post("/api/v1/things", {"name": "x"}, content_type="application/json", headers=headers)
        assert response.status_code == 403
        assert "only read" in response.json()["detail"]
    assert Project.objects.count() == before


def test_its_use_is_noted(alice_headers: Headers, alice: User) -> None:
    Client().get("/api/v1/things", headers=alice_headers)
    assert ApiToken.objects.get(user=alice).last_used_at is not None
