"""Sample files of the lm-evaluation-harness (`--log_samples`): samples_<task>_<time>.jsonl, one line per document and filter.

The harness scores a document once, so that every document is one attempt, whatever number of replies it averaged over. Where a
file holds several filters (strict-match and flexible-extract, say), the first one counts and lines of others are passed over.
The score is the first entry of `metrics`, or the best known name among the numbers of the line; a document is right from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes.errors import DataError
from recipes.evals.imported import Found, ImportedAttempt, attempt_from, messages_of, with_reply
from recipes.jsonl import NOTHING, At, Words, scan_jsonl
from recipes.types import Row

FILE_NAME = re.compile(r"samples_(?P<task>.+?)_\d{4}-\d\d-\d\dT[\d:.\-]+\.jsonl$")
SCORES = ("exact_match", "acc", "math_verify", "pass@1", "pass_at_1", "prompt_level_strict_acc", "em", "mc2", "f1", "acc_norm")
BOOKKEEPING = frozenset(
    [
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
        "target_hash",
    ]
)


def scan(path: Path, filename: str) -> Iterator[Found]:
    named = FILE_NAME.search(filename)
    prefix = f"{named['task']}/" if named else ""
    first_filter: Any = NOTHING
    with path.open("rb") as stream:
        for line, row, place in scan_jsonl(stream):
            at = At(line, place)
            if isinstance(row, DataError):
                yield Found(line, row, place)
                continue
            if first_filter is NOTHING:
                first_filter = row.get("filter")
            if row.get("filter") != first_filter:
                yield Found(line, None, place, f"Lines of filter {row.get('filter')} beside {first_filter}")
                continue
            try:
                yield Found(line, parse(row, at, prefix), place)
            except DataError as error:
                yield Found(line, error, place)


def parse(row: Row, at: At, prefix: str = "") -> ImportedAttempt:
    """Raises DataError."""
    doc_id = row.get("doc_id", NOTHING)
    if isinstance(doc_id, Words | bool) or not isinstance(doc_id, int | str):
        at.refuse("doc_id", doc_id, "the document's number")
    numbers = {
        key: float(value)
        for key, value in row.items()
        if key not in BOOKKEEPING and isinstance(value, int | float) and abs(value) < 1e300
    }
    name = _score_name(row, numbers, at)
    info = {"score": name, "target": row.get("target"), "filtered": row.get("filtered_resps"), "filter": row.get("filter")}
    values = {
        "task_id": f"{prefix}{doc_id}",
        "attempt": 0,
        "reward": numbers[name],
        "signals": numbers,
    }
    result = attempt_from(
        values, at, messages=_messages(row, at), info={key: value for key, value in info.items() if value is not None}
    )
    return ImportedAttempt(result, row.get("target"))


def _score_name(row: Row, numbers: dict[str, float], at: At) -> str:
    declared = row.get("metrics")
    declared = [item for item in declared if isinstance(item, str)] if isinstance(declared, list) else []
    names: tuple[str, ...] = (*declared, *SCORES, *numbers)
    for name in names:
        if name in numbers and 0.0 <= numbers[name] <= 1.0:
            return name
    at.refuse("", Words("no score between 0 and 1"), f"a score such as {', '.join(SCORES[:3])}")


def _messages(row: Row, at: At) -> list[Row]:
    arguments = _arguments(row.get("arguments"))
    prompt = _prompt(arguments[0][0] if arguments and arguments[0] else None, at)
    return with_reply(prompt, _reply(row, arguments))


def _arguments(value: Any) -> list[list[Any]]:
    """Of each request the prompt and what follows it; newer files name them gen_args_0: {arg_0, arg_1}."""
    requests = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [list(item.values()) if isinstance(item, dict) else item if isinstance(item, list) else [item] for item in requests]


def _prompt(value: Any, at: At) -> list[Row]:
    """A prompt is plain text or, with a chat template, JSON of messages."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        if value.startswith("[{"):
            try:
                return messages_of(json.loads(value), "arguments", at)
            except (ValueError, RecursionError):
                pass  # text that only looks like JSON, or messages in no shape of ours: shown as it stands
        return [{"role": "user", "content": value}]
    return messages_of(value, "arguments", at)


def _reply(row: Row, arguments: list[list[Any]]) -> str:
    """The (first) text replied; for multiple choice the likeliest continuation."""
    replies = row.get("resps", row.get("filtered_resps"))
    flat = [item[0] if isinstance(item, list) and item else item for item in replies] if isinstance(replies, list) else []
    if flat and isinstance(flat[0], str):
        return flat[0]
    likelihoods = [_likelihood(item) for item in flat]
    if likelihoods and len(likelihoods) == len(arguments) and all(value is not None for value in likelihoods):
        best = max(range(len(flat)), key=lambda index: likelihoods[index] or 0.0)
        return str(arguments[best][-1])
    return ""


def _likelihood(item: Any) -> float | None:
    value = item[0] if isinstance(item, list) and item else item
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
