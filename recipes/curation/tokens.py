"""The words of a filter: numbers, names and signs, with what is meant by what is none."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

MAX_LENGTH = 2000

_SPACE = re.compile(r"[ \t\r\n]*")
_PATTERN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<word>[A-Za-z_]\w*)|(?P<sign>[<>=!]=|[<>+\-*/()])", re.ASCII
)
K_BEHIND_A_NAME = re.compile(r"@([1-9]\d{0,14})(?![\w.])", re.ASCII)
HINTS = {
    "**": "no powers: write avg * avg",
    "//": "one / to divide",
    "&&": "and",
    "&": "and",
    "||": "or",
    "|": "or",
    "<>": "!=",
    "=": "== to compare",
    "!": "not",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "×": "*",
    "÷": "/",
    "−": "- (the ASCII minus)",
    "–": "- (the ASCII minus)",
    "%": "a share between 0 and 1, such as 0.25",
    "@": "name@k without spaces, as in pass@4",
    ",": "a point in decimals, and no separators in numbers",
}


class Token(NamedTuple):
    kind: str
    text: str
    start: int

    @property
    def shown(self) -> str:
        if self.kind == "end":
            return "the end"
        if self.kind == "unknown" and not (self.text.isascii() and self.text.isprintable()):
            return f"{unicodedata.name(self.text, 'a character')} (U+{ord(self.text):04X})"
        return self.text if len(self.text) <= 40 else f"{self.text[:39]}…"


def token_at(text: str, position: int) -> Token:
    """The token that begins at or behind `position`, spaces skipped."""
    start = _SPACE.match(text, position).end()  # type: ignore[union-attr]
    if start == len(text):
        return Token("end", "", start)
    found = _PATTERN.match(text, start)
    if found is None or text[start : start + 2] in HINTS:
        pair = text[start : start + 2]
        return Token("unknown", pair if pair in HINTS else text[start], start)
    return Token(str(found.lastgroup), found.group(), start)
