from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api_that_fails")]
Headers = dict[str, str]


def get(path: str, headers: Headers) -> tuple[int, dict[str, Any]]:
    response = Client().get(path, headers=headers)
    assert response["Content-Type"] == "application/problem+json"
    assert int(response.get("Content-Length", len(response.content))) == len(response.content), "a client would wait or hang up"
    return response.status_code, response.json()


@pytest.mark.parametrize(
    ("kind", "status", "detail"),
    [
        ("config", 422, "The rate must be positive."),
        ("data", 422, "Unknown role."),
        ("service", 502, "The service is away."),
        ("forbidden", 403, "Only an owner may delete."),
    ],
)
def test_a_foreseen_failure_says_its_sentence(alice_headers: Headers, kind: str, status: int, detail: str) -> None:
    found, body = get(f"/api/v1/fails/{kind}", alice_headers)
    assert (found, body["status"], body["detail"]) == (status, status, detail)


def test_a_config_error_names_the_field_by_its_path(alice_headers: Headers) -> None:
    _, body = get("/api/v1/fails/config", alice_headers)
    assert body["errors"] == [
        {"field": "algorithm.params[2].rate", "message": "The rate must be positive.", "rule": "config"},
    ]


def test_a_data_error_names_line_and_field(alice_headers: Headers) -> None:
    _, body = get("/api/v1/fails/data", alice_headers)
    assert body["errors"][0]["field"] == "line 3: messages[0].role"


@pytest.mark.parametrize("kind", ["absent", "missing"])
def test_what_is_not_there_says_nothing_of_the_inside(alice_headers: Headers, kind: str) -> None:
    status, body = get(f"/api/v1/fails/{kind}", alice_headers)
    assert status == 404
    assert "internal" not in body["detail"]
    assert "table" not in body["detail"]


def test_a_bug_is_logged_and_not_shown(alice_headers: Headers, caplog: pytest.LogCaptureFixture) -> None:
    status, body = get("/api/v1/fails/bug", alice_headers)
    assert status == 500
    assert "secret" not in str(body)
    assert "Traceback" not in str(body)
    assert any(record.exc_info for record in caplog.records)


def test_bad_values_are_named_by_path_with_a_sentence_each(alice_headers: Headers) -> None:
    data = {"name": "far too long a name", "inner": [{"rate": 0.1}, {"rate": 7}]}
    response = Client().post("/api/v1/things", data, content_type="application/json", headers=alice_headers)
    body = response.json()
    assert response.status_code == 422
    assert [error["field"] for error in body["errors"]] == ["name", "inner[1].rate"]
    assert all(error["message"].endswith(".") for error in body["errors"])
    assert body["errors"][1]["rule"] == "less_than_equal"


@pytest.mark.parametrize("content", ["{", "[1, 2", '"\\ud800"', "nonsense"])
def test_a_body_that_is_no_json_is_refused_in_the_same_shape(alice_headers: Headers, content: str) -> None:
    response = Client().post("/api/v1/things", content, content_type="application/json", headers=alice_headers)
    assert response.status_code in (400, 422)
    assert response["Content-Type"] == "application/problem+json"


def test_an_unknown_address_and_a_wrong_method_answer_in_the_same_shape(alice_headers: Headers) -> None:
    assert get("/api/v1/nowhere", alice_headers)[0] == 404
    response = Client().delete("/api/v1/things", headers=alice_headers)
    assert response.status_code == 405 and int(response["Content-Length"]) == len(response.content)
    assert response["Content-Type"] == "application/problem+json"
    assert set(response["Allow"].split(", ")) == {"GET", "POST"}


def test_pages_outside_the_api_keep_their_own_shape(client: Client) -> None:
    response = client.get("/nowhere")
    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")
