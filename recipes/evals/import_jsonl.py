"""Plain attempts, one JSON object per line:

    {"task_id": "t1", "attempt": 0, "reward": 1.0, "is_correct": true, "signals": {"length": 12.0},
     "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "error": null}

task_id is needed, and one of is_correct, reward and error. attempt counts from 0; left away, attempts of a task are numbered in
the order of the file. Further keys with a meaning: model, answer, error_kind, num_tokens, seconds, stop_reason, info.
Any other key is kept in info.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recipes.errors import DataError
from recipes.evals.imported import Found, ImportedAttempt, attempt_from, messages_of, rest_of, text_of
from recipes.jsonl import At, scan_jsonl
from recipes.types import Row

KNOWN = frozenset(
    [
        "task_id",
        "attempt",
        "reward",
        "is_correct",
        "signals",
        "messages",
        "error",
        "error_kind",
        "model",
        "answer",
        "num_tokens",
        "seconds",
        "stop_reason",
        "info",
    ]
)


def scan(path: Path) -> Iterator[Found]:
    with path.open("rb") as stream:
        for line, row, place in scan_jsonl(stream):
            try:
                yield Found(line, row if isinstance(row, DataError) else parse(row, At(line, place)), place)
            except DataError as error:
                yield Found(line, error, place)


def parse(row: Row, at: At) -> ImportedAttempt:
    """Raises DataError."""
    info = row.get("info") or {}
    if not isinstance(info, dict):
        at.refuse("info", info, "an object")
    messages = messages_of(row.get("messages"), "messages", at)
    result = attempt_from(row, at, messages=messages, info=info | rest_of(row, KNOWN))
    return ImportedAttempt(result, row.get("answer"), text_of(row.get("model"), "model", at))
