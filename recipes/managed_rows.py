"""Our rows as the rows of OpenAI-shaped services, a line each: what a managed job is given to learn from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from recipes.errors import DataError
from recipes.rendering import Supervise
from recipes.rows import RowFormat, parse
from recipes.types import Row

FEWEST_ROWS = 3
MOST_ROWS = 3_000_000


def check_count(num_rows: int) -> None:
    """Raises DataError for fewer or more rows than a job takes."""
    if not FEWEST_ROWS <= num_rows <= MOST_ROWS:
        raise DataError(f"A job learns from {FEWEST_ROWS} to {MOST_ROWS:,} rows; there are {num_rows:,} to train on.")


def write_rows(path: Path, rows: Iterable[Row], convert: Callable[[Row, int], Row]) -> int:
    """A file of converted rows, and how many there are. convert is given a row and its number, from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    num_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for num_rows, row in enumerate(rows, 1):
            file.write(json.dumps(convert(row, num_rows), ensure_ascii=False, allow_nan=False) + "\n")
    return num_rows


def chat_row(row: Row, number: int, *, supervise: Supervise = Supervise.ALL_ASSISTANT) -> Row:
    """{"messages", "tools"?}, with weight 0 on assistant turns that are not learnt. Raises DataError."""
    parsed = parse(row, RowFormat.MESSAGES, line=number, place="row")
    messages = [_message(message) for message in parsed["messages"]]
    if supervise is Supervise.LAST_ASSISTANT:
        turns = [message for message in messages if message["role"] == "assistant"]
        for message in turns[:-1]:
            message["weight"] = 0
    return {"messages": messages} | _tools(parsed)


def preference_row(row: Row, number: int) -> Row:
    """{"input": {"messages", "tools"?}, "preferred_output", "non_preferred_output"}, each reply one assistant turn. Raises
    DataError."""
    parsed = parse(row, RowFormat.PREFERENCE, line=number, place="row")
    for side in ("chosen", "rejected"):
        if len(parsed[side]) != 1:
            raise DataError(
                f"Row {number:,}, {side}: found {len(parsed[side])} turns; expected one reply of the assistant, which is all that"
                " such a job compares.",
                line=number,
                field=side,
            )
    return {
        "input": {"messages": [_message(message) for message in parsed["prompt"]]} | _tools(parsed),
        "preferred_output": [_message(message) for message in parsed["chosen"]],
        "non_preferred_output": [_message(message) for message in parsed["rejected"]],
    }


def task_row(row: Row, number: int, *, answer_field: str) -> Row:
    """{"messages", "task_id", answer_field?, "tools"?, "metadata"?}: what an evaluator is given of a task. Raises DataError."""
    parsed = parse(row, RowFormat.TASK, line=number, place="row")
    sent = {"messages": [_message(message) for message in parsed["messages"]], "task_id": parsed["task_id"]}
    if "answer" in parsed:
        sent[answer_field] = parsed["answer"]
    return sent | ({"metadata": parsed["metadata"]} if parsed.get("metadata") else {}) | _tools(parsed)


def _tools(parsed: Row) -> Row:
    return {"tools": parsed["tools"]} if parsed.get("tools") else {}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content", "")
    if isinstance(content, list):
        content = "".join(block["text"] for block in content)
    sent = {"role": message["role"], "content": content}
    if message.get("reasoning"):
        sent["reasoning_content"] = message["reasoning"]
    if message.get("tool_calls"):
        sent["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    return sent | {key: message[key] for key in ("tool_call_id", "name") if key in message}


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    """Arguments travel as JSON text."""
    function = call["function"]
    arguments = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    return {**call, "function": {"name": function["name"], "arguments": arguments}}
