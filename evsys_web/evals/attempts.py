"""Attempts at one task as the page shows them: the prompt they share once, then what each replied, beside each other.

Conversations come from models and from files that other programs wrote; whatever is no message becomes text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evsys_web.datasets.chats import Part, shown_part
from evsys_web.evals.models import Attempt
from recipes.types import Row

ROLES = ("system", "user", "assistant", "tool")
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
    chats = [[_message(item) for item in _items(attempt.messages)] for attempt in attempts]
    shared = min((len(chat) - (not attempt.error) for chat, attempt in zip(chats, attempts, strict=True)), default=0)
    shared = max(shared, 0)
    for chat in chats[1:]:
        shared = next((at for at in range(shared) if chat[at] != chats[0][at]), shared)
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


def _message(item: Any) -> Row:
    """A message that the chat component can draw."""
    if not isinstance(item, Mapping):
        return {"role": "tool", "content": fact(item)}
    role = item.get("role")
    message: Row = {"role": role if role in ROLES else "tool", "content": _content(item.get("content"))}
    if isinstance(reasoning := item.get("reasoning") or item.get("reasoning_content"), str):
        message["reasoning"] = reasoning
    if isinstance(name := item.get("name"), str):
        message["name"] = name
    calls = [call["function"] for call in _items(item.get("tool_calls")) if isinstance(call, Mapping) and "function" in call]
    message["tool_calls"] = [
        {"function": {"name": str(function.get("name", "")), "arguments": function.get("arguments", "")}}
        for function in calls
        if isinstance(function, Mapping)
    ]
    return message


def _content(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    blocks = _items(content)
    texts = [block["text"] for block in blocks if isinstance(block, Mapping) and isinstance(block.get("text"), str)]
    return "\n".join(texts) if blocks and len(texts) == len(blocks) else json.dumps(content, ensure_ascii=False)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
