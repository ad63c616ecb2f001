"""When two prompts are the same to a model that has learnt one of them: the text that is compared, and its key.

Left out is what people and pipelines change without asking something else: case, white space, quotes and sentence punctuation,
invisible characters, other Unicode forms of the same characters (NFKC), system messages, and which role said what. Numbers, and
signs that calculate (+ - * / % = < > ^ |), stay: templated tasks differ in nothing else. A paraphrase counts as another prompt.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from recipes.types import Row

KEY_BYTES = 8
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_DROPPED = re.compile(r"""[!?;"'`´‘’“”„«»()\[\]{}…¿¡]|[.,:](?!\d)|(?<!\d)[.,:]""")
_DASHES = re.compile("[\u2010-\u2015\u2212]")


def normalised(text: str) -> str:
    """What is compared of a text. Idempotent.

    >>> normalised("  What is “2.50 + 2” ?\\n") == normalised("what is 2.50 + 2")
    True
    >>> normalised("2 - 2?") == normalised("2 + 2?")
    False
    """
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold())
    return " ".join(_DROPPED.sub(" ", _DASHES.sub("-", text)).split())


def prompt_key(messages: Sequence[Any]) -> int | None:
    """A number below 2**64 that prompts share when they are the same; None for a prompt without text."""
    *_, last = (None, *_keys(messages))
    return last


def task_key(benchmark: str, task_id: str) -> int:
    """The same for a task by its name."""
    return int.from_bytes(blake2b(f"{benchmark}\0{task_id}".encode("utf-8", "replace"), digest_size=KEY_BYTES).digest(), "big")


def learnt(row: Row) -> Iterator[int]:
    """Keys of all that a training on this row teaches a reply to: its prompts, and the task that its metadata names."""
    yield from learnt_prompts(row)
    metadata = row.get("metadata")
    if isinstance(metadata, Mapping) and "benchmark" in metadata and "task_id" in metadata:
        yield task_key(str(metadata["benchmark"]), str(metadata["task_id"]))


def learnt_prompts(row: Row) -> Iterator[int]:
    """Keys of the prompts whose replies a training on this row teaches: before each assistant turn of a chat, the prompt of a
    preference, the messages of a task."""
    if isinstance(messages := row.get("messages"), list):
        if "answer" in row or "task_id" in row:
            yield from _only(prompt_key(messages))
        else:
            keys = [None, *_keys(messages)]
            yield from (
                key
                for key, message in zip(keys, messages, strict=False)
                if key is not None and isinstance(message, Mapping) and message.get("role") == "assistant"
            )
    elif isinstance(prompt := row.get("prompt"), list):
        yield from _only(prompt_key(prompt))


def _only(key: int | None) -> Iterator[int]:
    if key is not None:
        yield key


def _keys(messages: Sequence[Any]) -> Iterator[int | None]:
    """After each message, the key of all up to it; None while nothing has been said."""
    digest, is_empty = blake2b(digest_size=KEY_BYTES), True
    for message in messages:
        if isinstance(message, Mapping) and message.get("role") != "system" and (text := normalised(_text(message))):
            digest.update(text.encode("utf-8", "replace") + b"\n")
            is_empty = False
        yield None if is_empty else int.from_bytes(digest.digest(), "big")


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        blocks = [block.get("text") if isinstance(block, Mapping) else block for block in content]
        return " ".join(block for block in blocks if isinstance(block, str))
    calls = message.get("tool_calls")
    said = content if isinstance(content, str) else ""
    return f"{said} {json.dumps(calls, sort_keys=True, default=str)}" if calls else said
