"""A setting is declared in its Config and nowhere else: no template and no script knows one by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipes.registry import algorithms, backends

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]


def knob_names() -> set[str]:
    """Names of two words or more; `seed` and `device` are also plain English."""
    classes = [registry.get(kind).Config for registry in (algorithms, backends) for kind in registry.kinds()]
    return {name for config in classes for name in config.model_fields if "_" in name}


def mentions(paths: list[Path], before: str) -> list[str]:
    pattern = re.compile(rf"(?<![{before}])({'|'.join(sorted(knob_names()))})(?![\w-])")
    return [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in pattern.findall(path.read_text())]


def test_no_script_names_a_setting() -> None:
    scripts = list((ROOT / "static" / "js").rglob("*.js"))
    assert len(scripts) > 8 and not mentions(scripts, r"\w-")


def test_no_template_names_a_setting_but_as_a_field_of_its_form() -> None:
    templates = list((ROOT / "templates").rglob("*.html"))
    assert len(templates) > 20 and not mentions(templates, r"\w.-")
