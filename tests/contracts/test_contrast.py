"""Text can be read in both themes: every pair of colours that meets on a page has a contrast of 4.5 : 1 (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TOKENS = (Path(__file__).resolve().parents[2] / "static" / "css" / "tokens.css").read_text()
GROUNDS = ("bg", "surface", "sunken", "hover")
TEXTS = ("text", "text-muted", "accent-text", "bad", "good", "warn")
PAIRS = [(text, ground) for text in TEXTS for ground in GROUNDS]
PAIRS += [(tone, f"{tone}-soft") for tone in ("info", "good", "warn", "bad", "lost", "idle")]
PAIRS += [("accent-text", "accent-soft"), ("on-accent", "accent"), ("on-accent", "accent-hover"), ("on-accent", "danger")]
SHAPES = [("line-strong", "surface"), ("focus", "bg"), ("focus", "surface"), *((f"series-{n}", "surface") for n in range(1, 9))]


def colours(theme: str) -> dict[str, tuple[float, float, float]]:
    light, dark = TOKENS.split(':root[data-theme="dark"]')
    text = light if theme == "light" else light + dark
    found = re.findall(r"--([\w-]+): #([0-9a-f]{6});", text)
    return {name: (int(value[0:2], 16) / 255, int(value[2:4], 16) / 255, int(value[4:6], 16) / 255) for name, value in found}


def luminance(colour: tuple[float, float, float]) -> float:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: tuple[float, float, float], second: tuple[float, float, float]) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_gives_the_known_ends() -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast((1, 0, 0), (1, 0, 0)) == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_stands_out_from_its_ground(theme: str, text: str, ground: str) -> None:
    known = colours(theme)
    assert contrast(known[text], known[ground]) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("shape", "ground"), SHAPES)
def test_edges_of_fields_focus_rings_and_curves_stand_out(theme: str, shape: str, ground: str) -> None:
    known = colours(theme)
    assert contrast(known[shape], known[ground]) >= 3
