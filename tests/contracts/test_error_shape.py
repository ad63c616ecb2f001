"""One shape for every refusal of every operation that the OpenAPI document lists."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import pytest
from django.test import Client

from tests.contracts.test_openapi import document, promised_operations


class Operation(NamedTuple):
    method: str
    path: str

    def filled(self, value: str) -> str:
        return re.sub(r"{\w+}", value, self.path)


OPERATIONS = [Operation(*each) for each in promised_operations()]
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: " ".join(operation))
pytestmark = pytest.mark.django_db


def send(operation: Operation, headers: dict[str, str], *, value: str = "999999999", content: str = "{}") -> Any:
    client = Client(raise_request_exception=False)
    body = {} if operation.method == "get" else {"data": content, "content_type": "application/json"}
    return getattr(client, operation.method)(operation.filled(value), headers=headers, **body)


def problem_of(response: Any) -> dict[str, Any]:
    assert response["Content-Type"] == "application/problem+json", response.content[:300]
    body: dict[str, Any] = json.loads(response.content)
    assert list(body) == ["type", "title", "status", "detail", "errors"]
    assert body["status"] == response.status_code
    assert body["title"]
    assert body["detail"].endswith((".", "!", "?", "…")), body["detail"]
    for error in body["errors"]:
        assert list(error) == ["field", "message", "rule"]
        assert error["message"]
        assert error["rule"]
    return body


def test_there_are_operations_to_hold() -> None:
    assert len(OPERATIONS) > 15


@each_operation
def test_without_a_token_it_says_where_to_get_one(operation: Operation) -> None:
    response = send(operation, {})
    assert response.status_code == 401
    problem_of(response)


@each_operation
def test_a_number_that_names_nothing_is_refused(operation: Operation, alice_headers: dict[str, str]) -> None:
    response = send(operation, alice_headers)
    if "{" in operation.path:
        assert response.status_code in {404, 422}
    if response.status_code >= 400:
        assert response.status_code < 500
        problem_of(response)


@each_operation
def test_a_word_where_a_number_belongs_is_refused(operation: Operation, alice_headers: dict[str, str]) -> None:
    if "{" in operation.path:
        response = send(operation, alice_headers, value="..%2F%00'\"")
        assert response.status_code in {404, 422}
        problem_of(response)


@each_operation
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"config": 7, "file": [], "rows": "x"}', '"\\ud800"', "[" * 3000])
def test_a_body_of_no_sense_is_refused_and_never_breaks(
    operation: Operation, content: str, alice_headers: dict[str, str]
) -> None:
    if operation.method != "get":
        response = send(operation, alice_headers, content=content)
        assert 400 <= response.status_code < 500, response.content[:300]
        problem_of(response)


@pytest.mark.parametrize("path", sorted({operation.path for operation in OPERATIONS}))
def test_a_method_it_does_not_know_names_those_it_does(path: str, alice_headers: dict[str, str]) -> None:
    response = send(Operation("trace", path), alice_headers, value="1")
    assert response.status_code == 405
    assert response["Allow"]
    problem_of(response)


@pytest.mark.parametrize("path", ["/api/", "/api/v1", "/api/v1/", "/api/v1/nowhere", "/api/v2/runs"])
def test_an_address_that_does_not_exist_is_a_problem_too(path: str, alice_headers: dict[str, str]) -> None:
    response = Client().get(path, headers=alice_headers)
    assert response.status_code == 404
    problem_of(response)


@each_operation
def test_the_document_says_how_refusals_look(operation: Operation) -> None:
    whole = document()
    answer = whole["paths"][operation.path][operation.method]["responses"]["default"]
    assert answer == {"$ref": "#/components/responses/Refused"}
    reference = whole["components"]["responses"]["Refused"]["content"]["application/problem+json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/Problem"
