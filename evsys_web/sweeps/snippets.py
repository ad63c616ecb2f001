"""A sweep's settings in the shapes that other tools take: YAML for a file, curl for a shell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from django.http import HttpRequest

from evsys_web.runs.snippets import post_by_curl
from recipes.errors import ConfigError
from recipes.sweep_config import SweepConfig


def yaml_of(config: Mapping[str, Any]) -> str:
    """As `SweepConfig.to_yaml`; a config that today's code no longer accepts is shown as it was stored."""
    try:
        return SweepConfig.from_values(dict(config)).to_yaml()
    except ConfigError:
        return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def curl_for(request: HttpRequest, config: Mapping[str, Any]) -> str:
    """The call that starts the same sweep through the API."""
    return post_by_curl(request, "sweeps", config)
