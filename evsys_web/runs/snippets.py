"""The settings of a run, an eval, a cycle or a sweep in the shapes that other tools take: YAML for a file, curl for a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import yaml
from django.http import HttpRequest
from pydantic import ValidationError

from recipes.config import Document


def yaml_of(kind: type[Document], config: Mapping[str, Any]) -> str:
    """As the document's `to_yaml`; a config that today's code no longer accepts is shown as it was stored."""
    try:
        return kind.model_validate(config).to_yaml()
    except ValidationError:
        return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def curl_for(request: HttpRequest, collection: str, body: Mapping[str, Any]) -> str:
    """A call that creates something. The token is the reader's own, from the environment."""
    text = json.dumps(dict(body), ensure_ascii=False)
    return (
        f"curl -X POST {request.scheme}://{request.get_host()}/api/v1/{collection} \\\n"
        '  -H "Authorization: Bearer $EVSYS_TOKEN" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(text)}"
    )
