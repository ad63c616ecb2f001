"""Bodies that an operation reads itself, as JSON or YAML, and how the OpenAPI document describes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from pydantic import BaseModel


class TextBody:
    """For `openapi_extra`. `make` gives its model; it is asked when the document is, for all kinds of everything are in it:
    unfolding them took a second of every start."""

    def __init__(self, make: Callable[[], type[BaseModel]]) -> None:
        self.make = make

    @cached_property
    def described(self) -> dict[str, Any]:
        content = {"schema": inlined(self.make())}
        return {"required": True, "content": {"application/json": content, "application/yaml": content}}


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema without references."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(each) for each in part]
        if not isinstance(part, dict):
            return part
        if reference := part.get("$ref"):
            return resolve({**definitions[reference.rsplit("/", 1)[1]], **{k: v for k, v in part.items() if k != "$ref"}})
        return {key: resolve(value) for key, value in part.items() if key != "discriminator"}

    resolved: dict[str, Any] = resolve(schema)
    return resolved
