"""Row formats: detect, parse strictly, count. A row that is not understood is refused with its line, its field, what was
found and what was expected; nothing is guessed and nothing is dropped.

- messages: {"messages": [{"role", "content", "tool_calls"?, "reasoning"?, …}, …], "tools"?, "metadata"?}
- preference: {"prompt": [messages], "chosen": [messages], "rejected": [messages], "tools"?, "metadata"?}
- task: {"task_id", "messages", "answer"?, "verifier"?, "tools"?, "metadata"?}

Parsing brings a row into this one shape: null counts as absent, a bare string becomes a message list, `reasoning_content` and
`thinking` become `reasoning`, keys of the row that have no meaning here move into `metadata`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from recipes.errors import DataError
from recipes.jsonl import (
    NOTHING,
    At,
    Scanned,
    Words,
    canonical_line,
    parse_json,
    read_jsonl,
    refuse_unstorable,
    scan_jsonl,
    shown,
)
from recipes.types import Row

__all__ = ["Report", "RowFormat", "canonical_line", "check", "detect", "parse", "parse_all", "read_jsonl", "scan_jsonl"]

ROLES = ("system", "user", "assistant", "tool")
MESSAGE_KEYS = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name")
REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
MAX_LISTED_ERRORS = 50


class RowFormat(StrEnum):
    MESSAGES = "messages"
    PREFERENCE = "preference"
    TASK = "task"
    UNKNOWN = "unknown"


def detect(row: Row) -> RowFormat:
    """The format a row is written in, judged by its keys alone."""
    if "chosen" in row and "rejected" in row and "prompt" in row:
        return RowFormat.PREFERENCE
    if "task_id" in row and ("messages" in row or "prompt" in row) and ("answer" in row or "verifier" in row):
        return RowFormat.TASK
    return RowFormat.MESSAGES if "messages" in row else RowFormat.UNKNOWN


def parse(row: Any, format: RowFormat, *, line: int, place: str = "line") -> Row:
    """The row in the one shape of its format. Raises DataError."""
    at = At(line, place)
    if not isinstance(row, dict):
        at.refuse("", row, "one JSON object per row")
    if format is RowFormat.UNKNOWN:
        at.refuse("", row, "messages; or prompt, chosen and rejected; or task_id, messages and answer")
    refuse_unstorable(row, at)
    row = {key: value for key, value in row.items() if value is not None}
    return PARSERS[format](row, at)


def parse_messages_row(row: Row, at: At) -> Row:
    messages = parse_messages(row.get("messages", NOTHING), "messages", at)
    if all(message["role"] != "assistant" for message in messages):
        at.refuse(
            "messages",
            Words(f"only {', '.join(sorted({m['role'] for m in messages}))} turns"),
            "at least one assistant turn to learn",
        )
    return {"messages": messages} | _tools_and_metadata(row, {"messages"}, at)


def parse_preference_row(row: Row, at: At) -> Row:
    prompt = _messages_or_text(row.get("prompt", NOTHING), "prompt", "user", at)
    if prompt[-1]["role"] == "assistant":
        at.refuse(f"prompt[{len(prompt) - 1}].role", "assistant", "a prompt that ends before the assistant's turn")
    parsed: Row = {"prompt": prompt}
    for key in ("chosen", "rejected"):
        parsed[key] = reply = _messages_or_text(row.get(key, NOTHING), key, "assistant", at)
        if reply[0]["role"] != "assistant":
            at.refuse(f"{key}[0].role", reply[0]["role"], "assistant: the reply alone, without the prompt")
        if reply[-1]["role"] != "assistant":
            at.refuse(f"{key}[{len(reply) - 1}].role", reply[-1]["role"], "assistant")
    if parsed["chosen"] == parsed["rejected"]:
        at.refuse("rejected", Words("the same reply as chosen"), "a reply that differs from chosen")
    return parsed | _tools_and_metadata(row, {"prompt", "chosen", "rejected"}, at)


def parse_task_row(row: Row, at: At) -> Row:
    task_id = row.get("task_id", NOTHING)
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        task_id = str(task_id)
    if not isinstance(task_id, str) or isinstance(task_id, Words) or not task_id.strip():
        at.refuse("task_id", task_id, "a text that names the task")
    if "messages" in row and "prompt" in row:
        at.refuse("prompt", row["prompt"], "either messages or prompt, not both")
    key = "prompt" if "prompt" in row else "messages"
    messages = _messages_or_text(row.get(key, NOTHING), key, "user", at)
    if messages[-1]["role"] == "assistant":
        at.refuse(f"{key}[{len(messages) - 1}].role", "assistant", "a conversation that waits for the assistant's reply")
    if "answer" not in row and "verifier" not in row:
        at.refuse("answer", NOTHING, "the answer that a reply is compared with, or a verifier")
    parsed: Row = {"task_id": task_id, "messages": messages}
    parsed |= {key: row[key] for key in ("answer", "verifier") if key in row}
    return parsed | _tools_and_metadata(row, {"task_id", "messages", "prompt", "answer", "verifier"}, at)


PARSERS: dict[RowFormat, Callable[[Row, At], Row]] = {
    RowFormat.MESSAGES: parse_messages_row,
    RowFormat.PREFERENCE: parse_preference_row,
    RowFormat.TASK: parse_task_row,
}


def parse_messages(value: Any, path: str, at: At) -> list[Row]:
    """A non-empty list of messages. Raises DataError naming the message and its key."""
    if not isinstance(value, list) or not value:
        at.refuse(path, value, "a list of messages, each with role and content")
    return [_parse_message(message, f"{path}[{index}]", at) for index, message in enumerate(value)]


def _messages_or_text(value: Any, path: str, role: str, at: At) -> list[Row]:
    if isinstance(value, str) and not isinstance(value, Words):
        if not value.strip():
            at.refuse(path, value, "text that is not blank")
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        at.refuse(path, value, "text, or a list of messages")
    return parse_messages(value, path, at)


def _parse_message(message: Any, path: str, at: At) -> Row:
    if not isinstance(message, dict):
        at.refuse(path, message, "an object with role and content")
    given = {key: value for key, value in message.items() if value is not None}
    role = given.pop("role", NOTHING)
    if role not in ROLES:
        at.refuse(f"{path}.role", role, f"one of {', '.join(ROLES)}")
    parsed: Row = {"role": role, "content": _blocks_in_order(given.pop("content", ""))}
    reasoning = [key for key in REASONING_KEYS if key in given]
    if len(reasoning) > 1:
        at.refuse(f"{path}.{reasoning[1]}", given[reasoning[1]], f"one key for reasoning; {reasoning[0]} is there already")
    if reasoning:
        parsed["reasoning"] = _text(given.pop(reasoning[0]), f"{path}.{reasoning[0]}", at)
    if "tool_calls" in given:
        calls = given.pop("tool_calls")
        if calls != []:
            parsed["tool_calls"] = _parse_tool_calls(calls, role, f"{path}.tool_calls", at)
    for key in ("tool_call_id", "name"):
        if key in given:
            parsed[key] = _text(given.pop(key), f"{path}.{key}", at)
    for key, value in given.items():
        at.refuse(f"{path}.{key}", value, f"no key but {', '.join(MESSAGE_KEYS)}")
    _check_content(parsed, path, message.get("content", NOTHING), at)
    return parsed


def _blocks_in_order(content: Any) -> Any:
    """Text blocks with their keys in one order; anything else as it is, for `_check_content` to refuse."""
    if not isinstance(content, list) or not all(isinstance(block, dict) and set(block) == {"type", "text"} for block in content):
        return content
    return [{"type": block["type"], "text": block["text"]} for block in content]


def _check_content(message: Row, path: str, given: Any, at: At) -> None:
    content = message["content"]
    may_be_empty = message["role"] == "tool" or "tool_calls" in message
    if isinstance(content, str):
        if not content.strip() and not may_be_empty:
            at.refuse(f"{path}.content", given, "text that is not blank")
        return
    if not isinstance(content, list):
        at.refuse(f"{path}.content", content, "text, or a list of text blocks")
    for index, block in enumerate(content):
        where = f"{path}.content[{index}]"
        if not isinstance(block, dict) or block.get("type") != "text":
            kind = Words(f"a block of type {shown(block.get('type'))}") if isinstance(block, dict) else block
            at.refuse(where, kind, 'a text block, {"type": "text", "text": …}; images and audio cannot be trained on yet')
        if set(block) != {"type", "text"}:
            at.refuse(where, block, "the keys type and text and no others")
        _text(block["text"], f"{where}.text", at)
    if not any(block["text"].strip() for block in content) and not may_be_empty:
        at.refuse(f"{path}.content", content, "a text block that is not blank")


def _text(value: Any, path: str, at: At) -> str:
    if not isinstance(value, str):
        at.refuse(path, value, "text")
    return value


def _parse_tool_calls(calls: Any, role: str, path: str, at: At) -> list[Row]:
    """Each call as {"type": "function", "function": {"name", "arguments": object}, "id"?}; arguments as JSON text are read."""
    if role != "assistant":
        at.refuse(path, calls, f"no tool calls in a {role} turn: only the assistant calls tools")
    if not isinstance(calls, list):
        at.refuse(path, calls, "a list of tool calls")
    return [_parse_tool_call(call, f"{path}[{index}]", at) for index, call in enumerate(calls)]


def _parse_tool_call(call: Any, path: str, at: At) -> Row:
    if not isinstance(call, dict):
        at.refuse(path, call, "an object with function.name and function.arguments")
    nested = isinstance(call.get("function"), dict)
    function, where = (call["function"], f"{path}.function") if nested else (call, path)
    name = function.get("name", NOTHING)
    if not isinstance(name, str) or isinstance(name, Words) or not name:
        at.refuse(f"{where}.name", name, "the name of the function called")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments.encode(), at) if arguments.strip() else {}
        except (DataError, UnicodeEncodeError):
            at.refuse(f"{where}.arguments", arguments, "a JSON object, or JSON text of one")
    if not isinstance(arguments, dict):
        at.refuse(f"{where}.arguments", arguments, "a JSON object, or JSON text of one")
    parsed: Row = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if call.get("id") is not None:
        parsed["id"] = _text(call["id"], f"{path}.id", at)
    for key in (set(call) - {"id", "type", "function", "name", "arguments", "index"}) | (
        set(function) - {"name", "arguments"} if nested else set()
    ):
        at.refuse(f"{path}.{key}", call.get(key), "the keys id, type and function and no others")
    return parsed


def _tools_and_metadata(row: Row, known: set[str], at: At) -> Row:
    """What may ride along with any format: tool definitions, and everything else as metadata."""
    kept: Row = {}
    tools = row.get("tools")
    if tools:
        if not isinstance(tools, list) or not all(_names_a_function(tool) for tool in tools):
            at.refuse("tools", tools, "a list of tool definitions, each an object with function.name")
        kept["tools"] = tools
    metadata = row.get("metadata", {})
    if not isinstance(metadata, dict):
        at.refuse("metadata", metadata, "an object")
    extras = {key: value for key, value in row.items() if key not in known and key not in ("tools", "metadata")}
    for key in extras.keys() & metadata.keys():
        at.refuse(key, extras[key], f"a name that metadata does not hold too (metadata.{key})")
    if metadata or extras:
        kept["metadata"] = metadata | extras
    return kept


def _names_a_function(tool: Any) -> bool:
    definition = tool.get("function", tool) if isinstance(tool, dict) else {}
    return isinstance(definition, dict) and isinstance(definition.get("name"), str) and bool(definition["name"])


def parse_all(scanned: Iterable[Scanned], convert: Callable[[Row, At], Row]) -> Iterator[Scanned]:
    """Each row converted, or its refusal. A task_id that came before is refused: attempts are told apart by it."""
    first_seen: dict[str, tuple[str, int]] = {}
    for line, row, place in scanned:
        if isinstance(row, DataError):
            yield Scanned(line, row, place)
            continue
        at = At(line, place)
        try:
            parsed = convert(row, at)
            if "task_id" in parsed and (first := first_seen.setdefault(parsed["task_id"], (place, line))) != (place, line):
                at.refuse("task_id", parsed["task_id"], f"a name of its own; {first[0]} {first[1]:,} has the same")
        except DataError as error:
            yield Scanned(line, error, place)
        else:
            yield Scanned(line, parsed, place)


@dataclass
class Report:
    """What a check found: `count` good rows, `num_errors` refused ones, of which the first are listed."""

    format: RowFormat
    count: int = 0
    num_errors: int = 0
    errors: list[DataError] = field(default_factory=list)

    def add(self, row: Row | DataError) -> None:
        if not isinstance(row, DataError):
            self.count += 1
            return
        self.num_errors += 1
        if len(self.errors) < MAX_LISTED_ERRORS:
            self.errors.append(row)


def check(rows: Iterable[Any], format: RowFormat | None = None) -> Report:
    """Parse every row, numbered from 1, and count. The format is the first row's unless given."""
    report = Report(format or RowFormat.UNKNOWN)

    def convert(row: Row, at: At) -> Row:
        if report.format is RowFormat.UNKNOWN:
            report.format = detect(row) if isinstance(row, dict) else RowFormat.UNKNOWN
        return parse(row, report.format, line=at.line, place=at.place)

    for scanned in parse_all((Scanned(number, row, "row") for number, row in enumerate(rows, start=1)), convert):
        report.add(scanned.row)
    return report
