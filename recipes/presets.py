"""Starting values by model and algorithm: data in presets.yaml, read by the form and by the API alike."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recipes.registry import algorithms

_FILE = Path(__file__).with_name("presets.yaml")


class Preset(NamedTuple):
    """params: what differs from the algorithm's defaults. why: one sentence for people; empty when nothing is recommended."""

    params: Mapping[str, Any]
    why: str


def recommended(model_name: str, algorithm: str) -> Preset:
    """What to start from; an empty Preset when nothing is known of the pair."""
    for pattern, kinds, preset in _rows():
        if algorithm in kinds and fnmatchcase(model_name, pattern):
            return preset
    return Preset({}, "")


def starting_values(model_name: str, algorithm: str) -> dict[str, Any]:
    """Every setting of the algorithm: its defaults, with what is recommended laid over them. Raises ConfigError."""
    config_class = algorithms.get(algorithm).Config
    defaults = {
        name: info.get_default(call_default_factory=True)
        for name, info in config_class.model_fields.items()
        if not info.is_required()
    }
    return {**defaults, **recommended(model_name, algorithm).params}


@cache
def _rows() -> tuple[tuple[str, frozenset[str], Preset], ...]:
    found = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return tuple((row["model"], frozenset(row["algorithms"]), Preset(row["params"], row["why"])) for row in found)
