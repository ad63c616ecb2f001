"""Attempts at one task as the page shows them: the prompt they share once, then what each replied, beside each other.

Conversations come from models and from files that other programs wrote; whatever is no message becomes text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evsys_web.datasets.chats import Part, num_shared, readable, shown_part
from evsys_web.evals.models import Attempt

MAX_FACT_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class ShownAttempt:
    row: Attempt
    reply: Part
    facts: list[tuple[str, str]]

    @property
    def kind_words(self) -> str:
        return self.row.error_kind.replace("_", " ")


def side_by_side(attempts: Sequence[Attempt]) -> tuple[Part, list[ShownAttempt]]:
    """The messages that all attempts begin with, and each attempt with the rest. Of an attempt with a verdict at least the last
    message is its own, however alike the replies are."""
    chats = [readable(attempt.messages) for attempt in attempts]
    shared = num_shared(chats, [not attempt.error for attempt in attempts])
    shown = [
        ShownAttempt(attempt, shown_part("", chat[shared:]), _facts(attempt))
        for attempt, chat in zip(attempts, chats, strict=True)
    ]
    return shown_part("", chats[0][:shared] if chats else []), shown


def fact(value: Any) -> str:
    """Any JSON as a text of bounded length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_FACT_CHARACTERS else f"{text[: MAX_FACT_CHARACTERS - 1]}…"


def _facts(attempt: Attempt) -> list[tuple[str, str]]:
    """What the verifier found, and its signals."""
    found = {**_mapping(attempt.info), **_mapping(attempt.signals)}
    return [(str(name).replace("_", " "), fact(value)) for name, value in list(found.items())[:30] if value is not None]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
