"""A row as the page shows it: turns with a role and text, cut to what a browser can carry. Templates escape all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evsys_web.datasets.models import Format
from recipes.types import Row

ROLES = ("system", "user", "assistant", "tool")
MAX_CHARACTERS = 20_000
MAX_TURNS = 60
LONG_CHARACTERS = 1_200


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str
    reasoning: str = ""
    tool_calls: tuple[str, ...] = ()
    name: str = ""
    num_hidden: int = 0

    @property
    def is_long(self) -> bool:
        return len(self.text) > LONG_CHARACTERS

    @property
    def beginning(self) -> str:
        """What a closed long turn shows."""
        return self.text[:200].rsplit(" ", 1)[0]


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of turns under a title: the chosen reply, the rejected one, or the whole chat under none."""

    title: str
    turns: list[Turn]
    num_hidden: int = 0


@dataclass(frozen=True, slots=True)
class ShownRow:
    """`number` counts from 1 over the whole version."""

    number: int
    parts: list[Part]
    facts: list[tuple[str, str]] = field(default_factory=list)
    split: str = ""


def shown_row(row: Row, format: str, number: int, *, split: str = "") -> ShownRow:
    """A parsed row for people: its conversations, and beside them task id, answer, tools and metadata."""
    if format == Format.PREFERENCE:
        parts = [shown_part(title, row[key]) for title, key in (("", "prompt"), ("Chosen", "chosen"), ("Rejected", "rejected"))]
    else:
        parts = [shown_part("", row["messages"])]
    facts = [(label, _cut(_text(row[key]), 2_000)) for label, key in FACTS if key in row]
    return ShownRow(number, parts, facts, split)


FACTS = (("Task", "task_id"), ("Answer", "answer"), ("Verifier", "verifier"), ("Tools", "tools"), ("Metadata", "metadata"))


def shown_part(title: str, messages: list[Row]) -> Part:
    """A conversation of parsed messages, cut to MAX_TURNS."""
    return Part(title, [_turn(message) for message in messages[:MAX_TURNS]], max(0, len(messages) - MAX_TURNS))


def readable(messages: Any) -> list[Row]:
    """Messages that `shown_part` can draw, made of what a model or another program wrote; whatever is no message becomes text."""
    return [_readable(item) for item in _items(messages)]


def num_shared(chats: Sequence[Sequence[Row]], replied: Sequence[bool]) -> int:
    """So many messages all chats begin with. Where there was a reply, the last message at least is the chat's own."""
    shared = min((len(chat) - said for chat, said in zip(chats, replied, strict=True)), default=0)
    shared = max(shared, 0)
    for chat in chats[1:]:
        shared = next((at for at in range(shared) if chat[at] != chats[0][at]), shared)
    return shared


def _readable(item: Any) -> Row:
    if not isinstance(item, Mapping):
        return {"role": "tool", "content": _cut(_text(item), 2_000)}
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


def _turn(message: Row) -> Turn:
    content = message["content"]
    text = content if isinstance(content, str) else "\n".join(block["text"] for block in content)
    return Turn(
        role=message["role"],
        text=text[:MAX_CHARACTERS],
        reasoning=_cut(message.get("reasoning", ""), MAX_CHARACTERS),
        tool_calls=tuple(_call(call["function"]) for call in message.get("tool_calls", [])[:MAX_TURNS]),
        name=message.get("name", ""),
        num_hidden=max(0, len(text) - MAX_CHARACTERS),
    )


def _call(function: Row) -> str:
    return f"{function['name']}({_cut(_text(function['arguments']), 2_000)})"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
