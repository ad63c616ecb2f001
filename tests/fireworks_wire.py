"""Requests to the Fireworks on loopback, and where they lead."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

KEY = "fw-key-of-a-test"
ACCOUNT = "acme"
MODEL = "accounts/fireworks/models/qwen3-8b"


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")


def parts(path: str) -> tuple[str, str, str, str]:
    """/v1/accounts/OWNER/COLLECTION/NAME:VERB; the name may hold slashes."""
    rest, _, verb = path.removeprefix("/v1/accounts/").partition(":")
    owner, collection, name = [*rest.split("/", 2), "", ""][:3]
    return owner, collection, name, verb


def missing(what: str) -> tuple[int, Any]:
    return 404, {"code": 5, "message": f"{what} not found"}
