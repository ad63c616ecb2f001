"""Parsed rows as Parquet columns, and back into the very same rows.

A column has one type, a row of ours has not: content is text or a list of text blocks, an answer is any JSON, metadata is free.
So the schema is fixed by the row format and never guessed from rows:

- messages, prompt, chosen, rejected: a list of {role, content, content_blocks, reasoning, tool_calls, tool_call_id, name}, as
  trainers read it; content given as blocks stands in content_blocks, and joined by newlines in content
- answer: text; any other JSON in answer_json
- arguments of tool calls, tools, metadata, verifier: JSON text

The schema's own metadata says so (ROWS_KEY), and holds the splits where there are any (SPLITS_KEY): other tools ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recipes.jsonl import NOTHING, At, canonical_line, parse_json
from recipes.rows import RowFormat
from recipes.types import Row

if TYPE_CHECKING:
    import pyarrow

ROWS_KEY = b"evsys_rows"
SPLITS_KEY = b"evsys_splits"
TURNS = ("messages", "prompt", "chosen", "rejected")
JSON_TEXT = ("tools", "metadata", "verifier")
COLUMNS = {
    RowFormat.MESSAGES: ("messages", "tools", "metadata"),
    RowFormat.PREFERENCE: ("prompt", "chosen", "rejected", "tools", "metadata"),
    RowFormat.TASK: ("task_id", "messages", "answer", "answer_json", "verifier", "tools", "metadata"),
}


def schema_of(format: RowFormat, splits: Sequence[Mapping[str, Any]] = ()) -> pyarrow.Schema:
    """The columns of a format. splits: [{"name", "num_rows"}, …] of the rows that will be written, in their order."""
    import pyarrow as pa

    call = pa.struct(
        [("type", pa.string()), ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])), ("id", pa.string())]
    )
    block = pa.struct([("type", pa.string()), ("text", pa.string())])
    turn = pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("content_blocks", pa.list_(block)),
            ("reasoning", pa.string()),
            ("tool_calls", pa.list_(call)),
            ("tool_call_id", pa.string()),
            ("name", pa.string()),
        ]
    )
    notes = {ROWS_KEY: format.value.encode()}
    if splits:
        notes[SPLITS_KEY] = json.dumps([[each["name"], each["num_rows"]] for each in splits]).encode()
    return pa.schema([(name, pa.list_(turn) if name in TURNS else pa.string()) for name in COLUMNS[format]], metadata=notes)


def table_of(rows: Iterable[Row], schema: pyarrow.Schema) -> pyarrow.Table:
    """Parsed rows of the schema's format as a table."""
    import pyarrow as pa

    return pa.Table.from_pylist([to_columns(row) for row in rows], schema=schema)


def to_columns(row: Row) -> Row:
    columns: Row = {}
    for name, value in row.items():
        if name in TURNS:
            columns[name] = [_stored_turn(message) for message in value]
        elif name in JSON_TEXT:
            columns[name] = _json_text(value)
        elif name == "answer" and not isinstance(value, str):
            columns["answer_json"] = _json_text(value)
        else:
            columns[name] = value
    return columns


def _stored_turn(message: Row) -> Row:
    turn = dict(message)
    if isinstance(turn["content"], list):
        turn["content_blocks"] = turn["content"]
        turn["content"] = "\n".join(block["text"] for block in turn["content"])
    if "tool_calls" in turn:
        turn["tool_calls"] = [_stored_call(call) for call in turn["tool_calls"]]
    return turn


def _stored_call(call: Row) -> Row:
    function = call["function"]
    return {**call, "function": {"name": function["name"], "arguments": _json_text(function["arguments"])}}


def _json_text(value: Any) -> str:
    return canonical_line(value).decode().removesuffix("\n")


def is_ours(schema: pyarrow.Schema) -> bool:
    return bool(schema.metadata) and ROWS_KEY in schema.metadata


def splits_in(schema: pyarrow.Schema) -> list[Row]:
    """The splits that the file says it holds; [] for none, and for words that are none: anybody may write such a file."""
    try:
        pairs = json.loads((schema.metadata or {}).get(SPLITS_KEY, b"[]"))
        return [{"name": name + "", "num_rows": num_rows + 0} for name, num_rows in pairs]
    except (ValueError, TypeError, RecursionError):
        return []


def from_columns(columns: Row, at: At) -> Row:
    """The row that `to_columns` was given, for `recipes.rows` to parse. Raises DataError for JSON text that is none."""
    row: Row = {}
    for name, value in columns.items():
        if value is None:
            continue
        if name in TURNS and isinstance(value, list):
            row[name] = [_turn(message) for message in value]
        elif name in JSON_TEXT or name == "answer_json":
            row["answer" if name == "answer_json" else name] = _from_text(value, name, at)
        else:
            row[name] = value
    return row


def _turn(stored: Any) -> Any:
    if not isinstance(stored, dict):
        return stored
    turn = {name: value for name, value in stored.items() if value is not None}
    if "content_blocks" in turn:
        turn["content"] = turn.pop("content_blocks")
    return turn


def _from_text(text: Any, name: str, at: At) -> Any:
    if not isinstance(text, str):
        at.refuse(name, text if text is not None else NOTHING, "JSON text")
    return parse_json(text.encode(), at)
