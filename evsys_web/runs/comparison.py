"""What differs between the settings of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from recipes.config import RunConfig
from recipes.errors import ConfigError


class Difference(NamedTuple):
    """One setting by its dotted path, and its text in every run ("" where it is absent)."""

    path: str
    values: list[str]


def with_defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config as it ran: a setting that was left away has its default. One that this code cannot read stays as it is."""
    try:
        run = RunConfig.from_values(dict(config))
        settings = {"algorithm": run.algorithm_config(), "backend": run.backend_config()}
    except ConfigError:
        return config
    whole = run.model_dump(mode="json")
    for part, each in settings.items():
        whole[part]["params"] = each.model_dump(mode="json")
    return whole


def compare_configs(configs: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Settings that are not the same everywhere, in the order of the first config that has them. The name is no setting."""
    flat = [dict(_leaves(with_defaults(config))) for config in configs]
    paths = dict.fromkeys(path for leaves in flat for path in leaves if path != "name")
    rows = [Difference(path, [leaves.get(path, "") for leaves in flat]) for path in paths]
    return [row for row in rows if len(set(row.values)) > 1]


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, each in value.items() for leaf in _leaves(each, f"{path}.{key}" if path else str(key))]
    return [(path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
