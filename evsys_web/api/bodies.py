"""Bodies that an operation reads itself, as JSON or YAML, and how the OpenAPI document describes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from ninja.openapi.schema import REF_TEMPLATE
from ninja.schema import NinjaGenerateJsonSchema
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import WithDefaultSchema

MEDIA_TYPES = ("application/json", "application/yaml")


class TextBody:
    """For `openapi_extra`. `make` gives its model; it is asked when the document is, for all kinds of everything are in it:
    unfolding them took a second of every start."""

    def __init__(self, make: Callable[[], type[BaseModel]]) -> None:
        self.make = make

    @cached_property
    def model(self) -> type[BaseModel]:
        return self.make()


class OfBodies(NinjaGenerateJsonSchema):
    def normalize_name(self, name: str) -> str:
        """Where several classes are called Config, one within Math is MathConfig and not recipes__verifiers__Math__Config."""
        return super().normalize_name("".join(name.split(".")[-2:]))

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """An object as default stops generators of clients; the sentence of such a setting says what it is."""
        described = super().default_schema(schema)
        return {name: value for name, value in described.items() if name != "default" or not isinstance(value, dict)}


def describe(operations: list[dict[str, Any]], others: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a reference where an operation of the document has a TextBody. Gives what is referred to, by name and each once:
    a setting is in the bodies of runs, sweeps and cycles. A name that is taken in `others` gets "Body" behind it."""
    asking = [operation for operation in operations if isinstance(operation.get("requestBody"), TextBody)]
    models = list(dict.fromkeys(operation["requestBody"].model for operation in asking))
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in models]
    references, whole = models_json_schema(wanted, ref_template=REF_TEMPLATE, schema_generator=OfBodies)
    schemas = whole.get("$defs", {})
    names = {name: f"{name}Body" for name, schema in schemas.items() if others.get(name, schema) != schema}
    for operation in asking:
        schema = _renamed(references[operation["requestBody"].model, "validation"], names)
        operation["requestBody"] = {"required": True, "content": {each: {"schema": schema} for each in MEDIA_TYPES}}
    described = {names.get(name, name): _renamed(schema, names) for name, schema in schemas.items()}
    return {name: schema | {"title": name} for name, schema in described.items()}  # generators call their classes by the title


def _renamed(schema: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    text = json.dumps(schema)
    for old, new in names.items():
        text = text.replace(json.dumps(REF_TEMPLATE.format(model=old)), json.dumps(REF_TEMPLATE.format(model=new)))
    renamed: dict[str, Any] = json.loads(text)
    return renamed
