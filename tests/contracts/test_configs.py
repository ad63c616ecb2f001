"""Every setting explains and bounds itself: forms, REST and errors are drawn from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from recipes.config import RunConfig
from recipes.curation import CurationSettings
from recipes.cycle_config import CycleConfig, StopRule
from recipes.eval_config import Endpoint, EvalConfig, EvalModel, SamplingSettings
from recipes.registry import algorithms, backends, verifiers

pytestmark = pytest.mark.once

BOUNDS = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}


REGISTRIES = {registry.noun: registry for registry in (algorithms, backends, verifiers)}
PARTS = {part.__name__: part for part in (EvalModel, Endpoint, SamplingSettings, StopRule, CurationSettings)}


@pytest.fixture(params=[f"{noun} {kind}" for noun, registry in REGISTRIES.items() for kind in registry.kinds()] + [*PARTS])
def config(request: pytest.FixtureRequest) -> type[BaseModel]:
    """The Config of each algorithm, backend and verifier in turn, what an eval is made of, and a curation's."""
    if request.param in PARTS:
        return PARTS[request.param]
    noun, kind = request.param.split()
    found: type[BaseModel] = REGISTRIES[noun].get(kind).Config
    return found


def fields(config: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from config.model_json_schema().get("properties", {}).items()


def kinds_of(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A field's schema, or each of its alternatives when it may be empty."""
    yield from schema.get("anyOf", [schema])


def test_every_field_has_a_sentence(config: type[BaseModel]) -> None:
    mute = [field for field, schema in fields(config) if not schema.get("description", "").endswith(".")]
    assert mute == []


def test_every_number_has_a_lowest_and_a_highest_value(config: type[BaseModel]) -> None:
    endless = [
        field
        for field, schema in fields(config)
        for kind in kinds_of(schema)
        if kind.get("type") in {"integer", "number"} and len(BOUNDS & kind.keys()) < 2
    ]
    assert endless == []


def test_every_text_has_a_longest_length(config: type[BaseModel]) -> None:
    endless = [
        field
        for field, schema in fields(config)
        for kind in kinds_of(schema)
        if kind.get("type") == "string" and not {"maxLength", "enum", "const", "pattern"} & kind.keys()
    ]
    assert endless == []


def test_the_defaults_pass_their_own_checks_and_unknown_keys_do_not(config: type[BaseModel]) -> None:
    required = {field for field, info in config.model_fields.items() if info.is_required()}
    if not required:
        config()
    with pytest.raises(ValueError, match="no_such_setting"):
        config.model_validate({"no_such_setting": 1})


@pytest.mark.parametrize("document", [RunConfig, EvalConfig, CycleConfig])
def test_a_run_explains_itself_too(document: type[BaseModel]) -> None:
    schema = document.model_json_schema()
    parts = {document.__name__: schema, **schema["$defs"]}
    mute = [
        f"{part}.{field}"
        for part, definition in parts.items()
        for field, described in definition.get("properties", {}).items()
        if not described.get("description") and "$ref" not in described and field != "version"
    ]
    assert mute == []
