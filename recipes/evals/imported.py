"""What every importer gives, and the strict reading of its parts: a field that is not understood is refused with its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from recipes.errors import DataError
from recipes.jsonl import NOTHING, At, Words, refuse_unstorable
from recipes.rollouts import AttemptResult
from recipes.rows import MESSAGE_KEYS, REASONING_KEYS, ROLES
from recipes.types import Row

MAX_ATTEMPT = 100_000
MAX_TASK_ID = 300
ROLES_AS_OURS = {"developer": "system", "human": "user", "ai": "assistant", "model": "assistant", "function": "tool"}


@dataclass(frozen=True, slots=True)
class ImportedAttempt:
    """One attempt that was made elsewhere. result.attempt is −1 where the source does not number them.
    answer: what the reply was compared with, None where the source does not say. model: who replied, "" likewise."""

    result: AttemptResult
    answer: Any = None
    model: str = ""


class Found(NamedTuple):
    """One attempt of a file, or why it was refused. `line` is what `place` counts: lines, items, episodes, samples.
    An attempt None was passed over for the reason in `passed_over`: another one speaks for it, or it is by a `model` that is not
    wanted. A refused attempt with a `model` is one that another model made already."""

    line: int
    attempt: ImportedAttempt | DataError | None
    place: str = "line"
    passed_over: str = ""
    model: str = ""


def task_id_of(value: Any, path: str, at: At) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or isinstance(value, Words) or not value.strip() or len(value) > MAX_TASK_ID or "\0" in value:
        at.refuse(path, value, f"a text of up to {MAX_TASK_ID} characters that names the task")
    refuse_unstorable(value, at)
    return value


def attempt_of(value: Any, path: str, at: At) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_ATTEMPT:
        at.refuse(path, value, f"a whole number from 0 to {MAX_ATTEMPT - 1:,}")
    return value


def number_of(value: Any, path: str, at: At) -> float:
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float) or not -1e300 < value < 1e300:
        at.refuse(path, value, "a number")
    return float(value)


def flag_of(value: Any, path: str, at: At) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1) and not isinstance(value, Words):
        return bool(value)
    at.refuse(path, value, "true or false")


def text_of(value: Any, path: str, at: At) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        at.refuse(path, value, "text")
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def signals_of(value: Any, path: str, at: At) -> dict[str, float]:
    """Named numbers; null is none of them."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        at.refuse(path, value, "an object of numbers")
    return {name: number_of(item, f"{path}.{name}", at) for name, item in value.items() if item is not None}


def messages_of(value: Any, path: str, at: At) -> list[Row]:
    """A conversation as it is shown and reused: role, content and what MESSAGE_KEYS allow besides; other keys fall away."""
    if value is None:
        return []
    if not isinstance(value, list):
        at.refuse(path, value, "a list of messages")
    return [_message(item, f"{path}[{index}]", at) for index, item in enumerate(value)]


def _message(item: Any, path: str, at: At) -> Row:
    if not isinstance(item, dict):
        at.refuse(path, item, "an object with role and content")
    role = item.get("role", NOTHING)
    role = ROLES_AS_OURS.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        at.refuse(f"{path}.role", role, f"one of {', '.join(ROLES)}")
    content = item.get("content")
    if content is not None and not isinstance(content, str | list):
        at.refuse(f"{path}.content", content, "text, or a list of blocks")
    message: Row = {"role": role, "content": "" if content is None else content}
    reasoning = next((item[key] for key in REASONING_KEYS if isinstance(item.get(key), str) and item[key]), None)
    if reasoning is not None:
        message["reasoning"] = reasoning
    for key in MESSAGE_KEYS:
        if key not in message and item.get(key) not in (None, [], ""):
            message[key] = item[key]
    return message


def with_reply(prompt: list[Row], reply: str) -> list[Row]:
    return [*prompt, {"role": "assistant", "content": reply}]


def attempt_from(row: Mapping[str, Any], at: At, *, messages: list[Row], info: dict[str, Any]) -> AttemptResult:
    """An attempt from the names of the plain format: task_id, attempt, reward, is_correct, signals, error, error_kind,
    num_tokens, seconds, stop_reason. Either an error or a verdict is needed. A verdict without is_correct is right from
    reward 1; one without reward earns 1 or 0."""
    task_id = task_id_of(row.get("task_id", NOTHING), "task_id", at)
    number = -1 if row.get("attempt") is None else attempt_of(row["attempt"], "attempt", at)
    error = text_of(row.get("error"), "error", at)
    reward = None if row.get("reward") is None else number_of(row["reward"], "reward", at)
    is_correct = None if row.get("is_correct") is None else flag_of(row["is_correct"], "is_correct", at)
    if error and is_correct:
        at.refuse("error", error, "no error beside is_correct true: an attempt that failed has no verdict")
    if not error and reward is None and is_correct is None:
        at.refuse("", Words("no verdict"), "is_correct, reward or error")
    if error:
        reward = is_correct = None
    elif is_correct is None:
        is_correct = reward is not None and reward >= 1.0
    elif reward is None:
        reward = float(is_correct)
    refuse_unstorable(info, at)
    refuse_unstorable(messages, at)
    return AttemptResult(
        task_id=task_id,
        attempt=number,
        reward=reward,
        is_correct=is_correct,
        signals=signals_of(row.get("signals"), "signals", at),
        info=info,
        messages=messages,
        num_tokens=_count(row.get("num_tokens"), "num_tokens", at),
        seconds=0.0 if row.get("seconds") is None else max(number_of(row["seconds"], "seconds", at), 0.0),
        stop_reason=text_of(row.get("stop_reason"), "stop_reason", at)[:100] or None,
        error=error or None,
        error_kind=(text_of(row.get("error_kind"), "error_kind", at)[:40] or "imported") if error else None,
    )


def _count(value: Any, path: str, at: At) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        at.refuse(path, value, "a whole number of tokens")
    return value


def rest_of(row: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """What an importer has no place for, kept as information."""
    return {key: value for key, value in row.items() if key not in known and value is not None}
