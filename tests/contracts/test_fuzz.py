"""Requests that schemathesis makes from the OpenAPI document, good ones and broken ones, as nobody, stranger, viewer and
editor: no answer of 500 and above, and every answer as the document says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from evsys_web.api.api import api
from tests.conftest import token_headers
from tests.contracts.test_openapi import promised_operations
from tests.contracts.world import World
from tests.contracts.world import world as world

NUM_REQUESTS = 8
"""Of each operation: enough for every role and for good and broken ones, at a quarter of a second."""
REFUSALS = {400, 401, 403, 404, 405, 409, 413, 415, 422, 429}
"""What an operation may answer besides what it lists: the document gives them one shape, under "default"."""
LABELS = [f"{method.upper()} {path}" for method, path in promised_operations()]
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nobody_is_asked_with_a_key(settings: Any) -> None:
    """A test of a connection begins a process."""
    settings.CONNECTION_TESTS_AT_ONCE = 0


@pytest.fixture
def wsgi() -> Iterator[Any]:
    """The application as a server runs it, but on the test's own connection to the database, which requests must not close."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield get_wsgi_application()
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


class Made(NamedTuple):
    """Of the document: its operations by label, both modes of making requests, what is checked always and of refused ones."""

    operations: dict[str, Any]
    modes: list[Any]
    checks: list[Any]
    of_broken: list[Any]


@pytest.fixture(scope="module")
def made() -> Made:
    """Imported and read here: every process that runs tests would spend seconds on it."""
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    schema = schemathesis.openapi.from_dict(api.get_openapi_schema(path_params={}))
    operations = {result.ok().label: result.ok() for result in schema.get_all_operations()}
    assert set(operations) == set(LABELS)
    always = [checks.content_type_conformance, checks.response_headers_conformance, checks.response_schema_conformance]
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    return Made(operations, modes, [not_a_server_error, *always], [checks.negative_data_rejection])


@pytest.fixture(autouse=True)
def same_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """hypothesis also draws literals of the local modules that happen to be loaded: other requests after other tests."""
    from hypothesis.internal.conjecture import providers

    monkeypatch.setattr(providers, "_get_local_constants", providers.Constants)
    providers.CONSTANTS_CACHE.cache.clear()


@pytest.mark.parametrize("label", LABELS)
def test_no_request_breaks_it_or_gets_an_answer_that_the_document_does_not_know(
    label: str, wsgi: Any, world: World, roles: dict[str, dict[str, str]], made: Made
) -> None:
    operation = made.operations[label]
    operation.app = wsgi
    documented = {int(status) for status in operation.definition.raw["responses"] if status.isdigit()} | REFUSALS
    requests = st.one_of(*map(operation.as_strategy, made.modes))

    @settings_of(max_examples=NUM_REQUESTS, phases=[Phase.generate], derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=requests, role=st.sampled_from(sorted(roles)), is_there=st.booleans())
    def ask(case: Any, role: str, is_there: bool) -> None:
        if is_there:  # an id that names something: else nearly every request ends at 404
            case.path_parameters = {**case.path_parameters, **existing(operation.path, world.keys)}
        response = case.call(headers=roles[role])
        is_judged = role == "editor" and not is_there  # who may not ask is refused first; what was broken may be whole again
        checks = made.checks + made.of_broken * is_judged
        case.validate_response(response, checks=checks, headers=roles[role])
        assert response.status_code in documented, f"{role}: {case.as_curl_command()} answered {response.status_code}"
        if role == "nobody":
            assert response.status_code in {401, 404}  # 404: an address that the API does not have

    ask()


def existing(path: str, keys: dict[str, str]) -> dict[str, str]:
    """Of each parameter in the path: alice's own, by its name or by the noun before it."""
    found = re.findall(r"([\w-]+)/{(\w+)}", path)
    return {name: keys[name if name in keys else noun] for noun, name in found}


@pytest.fixture
def roles(world: World) -> dict[str, dict[str, str]]:
    people = {"stranger": world.mallory, "viewer": world.carol, "editor": world.bob}
    return {"nobody": {}, **{role: token_headers(user) for role, user in people.items()}}
