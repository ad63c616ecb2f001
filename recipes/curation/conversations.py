"""What curation needs of an attempt's conversation: whether a model can learn from it, its length, and what tells it apart."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import orjson

from recipes.errors import DataError
from recipes.rows import RowFormat, canonical_line, parse
from recipes.types import Row

MAX_REASON = 200


class Conversation(NamedTuple):
    """num_characters: of what the assistant said, its reasoning and its calls. digest: 63 bits over the whole conversation.
    unusable: why no row can be made of it; "" when one can. The other numbers are 0 then. prompt: as digest, over what stands
    before the assistant's first turn; 0 where it can be no side of a pair, for lack of that or of a reply at the end."""

    num_characters: int
    digest: int
    unusable: str = ""
    prompt: int = 0


def read_conversation(messages: Any) -> Conversation:
    """Facts of a conversation, the reply last.

    >>> read_conversation([{"role": "user", "content": "1 + 1?"}]).unusable
    'no assistant turn'
    """
    try:
        row = conversation_row(messages)
    except DataError as error:
        return Conversation(0, 0, str(error))
    turns: list[Row] = row["messages"]
    num_characters = sum(_said(message) for message in turns if message["role"] == "assistant")
    first = next(index for index, message in enumerate(turns) if message["role"] == "assistant")
    prompt = _digest({"messages": turns[:first]}) if first and turns[-1]["role"] == "assistant" else 0
    return Conversation(num_characters, _digest(row), prompt=prompt)


def conversation_row(messages: Any) -> Row:
    """The conversation as a row to train on, reasoning and tool calls kept. Raises DataError with the reason alone."""
    if isinstance(messages, list | tuple) and not messages:
        raise DataError("the conversation is empty")
    if isinstance(messages, list) and not any(isinstance(item, dict) and item.get("role") == "assistant" for item in messages):
        raise DataError("no assistant turn")
    try:
        return parse({"messages": list(messages) if isinstance(messages, tuple) else messages}, RowFormat.MESSAGES, line=1)
    except DataError as error:
        where = f"{error.field}: " if error.field else ""
        raise DataError(f"{where}found {error.found}, expected {error.expected}"[:MAX_REASON]) from None


def pair_row(chosen: Any, rejected: Any) -> Row:
    """Two conversations with one prompt as a preference row; what both say alike is context. Raises DataError with the reason.

    >>> said = lambda text: [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": text}]
    >>> pair_row(said("2"), said("3"))["rejected"]
    [{'role': 'assistant', 'content': '3'}]
    """
    sides = [conversation_row(messages)["messages"] for messages in (chosen, rejected)]
    begins = [
        index
        for index, (one, other) in enumerate(zip(*sides, strict=False))
        if one["role"] == other["role"] == "assistant" and sides[0][:index] == sides[1][:index]
    ]
    if not begins or not begins[-1]:
        raise DataError("the two conversations have no prompt in common")
    start = begins[-1]
    pair = {"prompt": sides[0][:start], "chosen": sides[0][start:], "rejected": sides[1][start:]}
    return parse(pair, RowFormat.PREFERENCE, line=1)


def _digest(row: Row) -> int:
    try:
        line = orjson.dumps(row)  # in a twentieth of the time
    except TypeError:  # a number beyond 64 bits
        line = canonical_line(row)
    return int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "big") >> 1


def _said(message: Row) -> int:
    content = message["content"]
    text = len(content) if isinstance(content, str) else sum(len(block["text"]) for block in content)
    calls = sum(len(json.dumps(call["function"], ensure_ascii=False)) for call in message.get("tool_calls", ()))
    return text + len(message.get("reasoning", "")) + calls
