"""The API as it was promised. To renew it on purpose: UPDATE_SNAPSHOTS=1 pytest tests/contracts/test_openapi.py"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from django.test import Client
from pydantic import BaseModel

from evsys_web.api.api import api
from evsys_web.api.bodies import TextBody, describe
from recipes.algorithms.sdft import SDFTConfig
from recipes.registry import algorithms, backends, callbacks, verifiers

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("openapi.json")
REGISTRIES = (algorithms, backends, verifiers, callbacks)

PRINTED = """
import json
import django
django.setup()
from evsys_web.api.api import api
print(json.dumps(api.get_openapi_schema(path_params={})))
"""


@cache
def document() -> dict[str, Any]:
    """As a process says it that has done nothing else."""
    command = [sys.executable, "-c", PRINTED]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=True)
    whole: dict[str, Any] = json.loads(done.stdout)
    return whole


def promised_operations() -> list[tuple[str, str]]:
    """(method, path) of each, from the snapshot: building the document takes a second in every process that runs tests."""
    paths = json.loads(SNAPSHOT.read_text())["paths"]
    return sorted((method, path) for path, methods in paths.items() for method in methods)


def test_nothing_of_the_api_changes_unseen() -> None:
    now = document()
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        SNAPSHOT.write_text(json.dumps(now, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    promised = json.loads(SNAPSHOT.read_text())
    assert set(now["paths"]) == set(promised["paths"])
    for path, operations in promised["paths"].items():
        assert now["paths"][path] == operations, path
    assert now == promised


def test_a_setting_is_described_once_however_many_bodies_have_it() -> None:
    text = json.dumps(document())
    assert len(text) < 500_000
    assert text.count(f'"description": {json.dumps(SDFTConfig.model_fields["topk"].description)}') == 1


def test_generators_of_clients_find_nothing_that_they_stop_at() -> None:
    """openapi-python-client calls classes by their titles, and leaves out operations whose body has an object as default."""
    schemas = document()["components"]["schemas"]
    titles = [schema["title"] for schema in schemas.values()]
    assert len(set(titles)) == len(titles)
    settings = [setting for schema in schemas.values() for setting in schema.get("properties", {}).values()]
    assert not [setting for setting in settings if isinstance(setting.get("default"), dict)]


class RunOut(BaseModel):
    """Has the name of an answer of ours."""

    strange: int


class Whole(BaseModel):
    part: RunOut


def test_a_config_of_a_package_takes_no_name_of_ours() -> None:
    operation: dict[str, Any] = {"requestBody": TextBody(lambda: Whole)}
    schemas = describe([operation], {"RunOut": {"title": "a run"}})
    assert {name: schema["title"] for name, schema in schemas.items()} == {"Whole": "Whole", "RunOutBody": "RunOutBody"}
    assert schemas["Whole"]["properties"]["part"]["$ref"] == "#/components/schemas/RunOutBody"
    assert operation["requestBody"]["content"]["application/yaml"]["schema"] == {"$ref": "#/components/schemas/Whole"}


def test_whoever_has_the_document_is_not_sent_it_again(client: Client) -> None:
    first = client.get("/api/openapi.json")
    again = client.get("/api/openapi.json", headers={"If-None-Match": first["ETag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again["ETag"] == first["ETag"] and first["Cache-Control"] == again["Cache-Control"] == "no-cache"
    assert client.get("/api/openapi.json", headers={"If-None-Match": '"other"'}).content == first.content


def test_whoever_changes_the_document_changes_their_own() -> None:
    """schemathesis does, now and then."""
    for operations in api.get_openapi_schema(path_params={})["paths"].values():
        for operation in operations.values():
            operation.get("requestBody", {}).get("content", {}).clear()
            for parameter in operation.get("parameters", []):
                parameter.clear()
    assert in_this_process()["paths"] == json.loads(SNAPSHOT.read_text())["paths"]


def test_a_process_that_has_run_other_tests_still_says_what_was_promised() -> None:
    """Kinds that are registered here are in the document, so that whatever a test registers has to go with it: one that came
    when its file was read made this differ in whole runs alone."""
    built_in = {kind for registry in REGISTRIES for kind in registry._paths}
    assert {kind for registry in REGISTRIES for kind in registry.kinds()} == built_in, "a test left a kind of its own behind"
    assert in_this_process() == json.loads(SNAPSHOT.read_text())


def in_this_process() -> Any:
    return json.loads(json.dumps(api.get_openapi_schema(path_params={})))


def test_every_reference_in_the_document_leads_somewhere() -> None:
    whole = document()
    text = json.dumps(whole)
    for part in text.split('"$ref": "')[1:]:
        found: Any = whole
        for name in part.split('"', 1)[0].removeprefix("#/").split("/"):
            found = found[name]
        assert found


def test_every_operation_says_what_it_does_and_has_a_name_of_its_own() -> None:
    operations = [operation for methods in document()["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] for operation in operations)
    assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in document()["tags"]}


def test_the_document_and_its_page_need_no_sign_in_and_no_foreign_host(client: Client, db: None) -> None:
    assert client.get("/api/openapi.json").json()["openapi"].startswith("3.")
    page = client.get("/api/docs").content.decode()
    assert "swagger-ui-bundle.js" in page
    assert "//" not in page.replace("<!doctype html>", "").split("<body")[0]
