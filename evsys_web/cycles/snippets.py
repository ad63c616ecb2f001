"""A cycle's settings in the shapes that other tools take: YAML for a file, curl for a shell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from django.http import HttpRequest
from pydantic import ValidationError

from evsys_web.runs.snippets import post_by_curl
from recipes.cycle_config import CycleConfig


def yaml_of(config: Mapping[str, Any]) -> str:
    """As `CycleConfig.to_yaml`; a config that today's code no longer accepts is shown as it was stored."""
    try:
        return CycleConfig.model_validate(config).to_yaml()
    except ValidationError:
        return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def curl_for(request: HttpRequest, config: Mapping[str, Any]) -> str:
    """The call that starts the same cycle through the API."""
    return post_by_curl(request, "cycles", config)
