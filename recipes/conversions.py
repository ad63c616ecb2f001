"""Foreign row shapes by name, each turned into one of our formats by an explicit conversion that a person sees and confirms.

A `Reading` says how a file's rows become ours: the format, and the conversion or the column mapping, if one is needed.
`recognise` proposes one from the first rows; nothing is converted unless a Reading names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recipes.errors import ConfigError, DataError
from recipes.jsonl import NOTHING, At, Words, parse_json, refuse_unstorable
from recipes.rows import RowFormat, detect, parse
from recipes.types import Row


@dataclass(frozen=True, slots=True)
class Conversion:
    """`recognises` judges a row by its keys; `convert` makes a row of `format`, or raises DataError under the foreign names."""

    name: str
    title: str
    sentence: str
    format: RowFormat
    recognises: Callable[[Row], bool]
    convert: Callable[[Row, At], Row]


SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


def _from_sharegpt(row: Row, at: At) -> Row:
    turns = row.get("conversations", NOTHING)
    if not isinstance(turns, list) or not turns:
        at.refuse("conversations", turns, "a list of turns, each with from and value")
    messages = [_from_sharegpt_turn(turn, f"conversations[{index}]", at) for index, turn in enumerate(turns)]
    rest = {key: value for key, value in row.items() if key not in ("conversations", "system", "tools")}
    system = row.get("system")
    if system:
        messages.insert(0, {"role": "system", "content": system})
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = _json_text(tools, "tools", at) if tools.strip() else None
    return {"messages": messages, "tools": tools} | rest


def _from_sharegpt_turn(turn: Any, path: str, at: At) -> Row:
    if not isinstance(turn, dict):
        at.refuse(path, turn, "an object with from and value")
    if "role" in turn:
        return turn
    speaker, value = turn.get("from", NOTHING), turn.get("value", NOTHING)
    if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
        at.refuse(f"{path}.from", speaker, f"one of {', '.join(SHAREGPT_ROLES)}")
    if not isinstance(value, str) or isinstance(value, Words):
        at.refuse(f"{path}.value", value, "text")
    for key in set(turn) - {"from", "value", "weight"}:
        at.refuse(f"{path}.{key}", turn[key], "the keys from and value and no others")
    _refuse_weight_zero(turn, path, at)
    if speaker == "function_call":
        call = _json_text(value, f"{path}.value", at)
        return {"role": "assistant", "content": "", "tool_calls": call if isinstance(call, list) else [call]}
    return {"role": SHAREGPT_ROLES[speaker], "content": value}


def _json_text(text: str, path: str, at: At) -> Any:
    try:
        return parse_json(text.encode(), at)
    except DataError:
        at.refuse(path, text, "JSON text")


def _from_alpaca(row: Row, at: At) -> Row:
    for key in ("instruction", "output"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            at.refuse(key, row.get(key, NOTHING), "text that is not blank")
    extra = row.get("input") or ""
    if not isinstance(extra, str):
        at.refuse("input", extra, "text, or nothing")
    messages: list[Row] = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    history = row.get("history") or []
    if not isinstance(history, list):
        at.refuse("history", history, "a list of pairs, or nothing")
    for index, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            at.refuse(f"history[{index}]", pair, "a pair: what the user said, what the assistant replied")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    messages.append({"role": "user", "content": f"{row['instruction']}\n\n{extra}" if extra.strip() else row["instruction"]})
    messages.append({"role": "assistant", "content": row["output"]})
    used = ("instruction", "input", "output", "system", "history")
    return {"messages": messages} | {key: value for key, value in row.items() if key not in used}


def _from_prompt_completion(row: Row, at: At) -> Row:
    messages = _turns(row.get("prompt", NOTHING), "prompt", "user", at)
    messages += _turns(row.get("completion", NOTHING), "completion", "assistant", at)
    return {"messages": messages} | {key: value for key, value in row.items() if key not in ("prompt", "completion")}


def _turns(value: Any, path: str, role: str, at: At) -> list[Any]:
    if isinstance(value, list):
        return list(value)
    if not isinstance(value, str) or isinstance(value, Words) or not value.strip():
        at.refuse(path, value, "text that is not blank, or a list of messages")
    return [{"role": role, "content": value}]


OPENAI_MESSAGE_KEYS = frozenset({"weight", "refusal", "audio", "annotations", "function_call"})
OPENAI_ROLES = {"developer": "system", "function": "tool"}


def _has_openai_marks(row: Row) -> bool:
    messages = row.get("messages")
    if not isinstance(messages, list):
        return False
    marked = any(
        isinstance(message, dict) and (OPENAI_MESSAGE_KEYS & message.keys() or message.get("role") in ("developer", "function"))
        for message in messages
    )
    return marked or "parallel_tool_calls" in row or "functions" in row


def _from_openai(row: Row, at: At) -> Row:
    messages = row.get("messages", NOTHING)
    if not isinstance(messages, list):
        at.refuse("messages", messages, "a list of messages")
    converted: Row = {key: value for key, value in row.items() if key not in ("parallel_tool_calls", "functions")}
    converted["messages"] = [_from_openai_message(message, f"messages[{index}]", at) for index, message in enumerate(messages)]
    if row.get("functions"):
        if not isinstance(row["functions"], list):
            at.refuse("functions", row["functions"], "a list of function definitions")
        converted["tools"] = [{"type": "function", "function": definition} for definition in row["functions"]]
    return converted


def _from_openai_message(message: Any, path: str, at: At) -> Any:
    if not isinstance(message, dict):
        return message
    _refuse_weight_zero(message, path, at)
    for key in ("refusal", "audio"):
        if message.get(key):
            at.refuse(f"{path}.{key}", message[key], "null: such turns cannot be trained on")
    converted = {key: value for key, value in message.items() if key not in OPENAI_MESSAGE_KEYS}
    role = message.get("role")
    converted["role"] = OPENAI_ROLES.get(role, role) if isinstance(role, str) else role
    if message.get("function_call"):
        converted["tool_calls"] = [message["function_call"]]
    return converted


def _refuse_weight_zero(message: Row, path: str, at: At) -> None:
    if message.get("weight", 1) not in (1, None):
        at.refuse(
            f"{path}.weight",
            message["weight"],
            "1: which turns are trained is chosen for a whole run (all or the last assistant turns)",
        )


def _from_openai_preference(row: Row, at: At) -> Row:
    given = row.get("input")
    if not isinstance(given, dict):
        at.refuse("input", given if given is not None else NOTHING, "an object with messages")
    rest = {key: value for key, value in row.items() if key not in ("input", "preferred_output", "non_preferred_output")}
    return {
        "prompt": given.get("messages"),
        "chosen": row.get("preferred_output"),
        "rejected": row.get("non_preferred_output"),
        "tools": given.get("tools"),
    } | rest


HH_TURNS = {"\n\nHuman: ": "user", "\n\nAssistant: ": "assistant", "\n\nHuman:": "user", "\n\nAssistant:": "assistant"}


def _from_hh(row: Row, at: At) -> Row:
    chosen, rejected = (_hh_messages(row.get(key, NOTHING), key, at) for key in ("chosen", "rejected"))
    return _split_prompt(row, chosen, rejected, at)


def _hh_messages(text: Any, path: str, at: At) -> list[Row]:
    if not isinstance(text, str) or not text.startswith(("\n\nHuman:", "\n\nAssistant:")):
        at.refuse(path, text, "text that begins with a blank line and Human:")
    messages: list[Row] = []
    for piece in text.replace("\n\nHuman:", "\0user:").replace("\n\nAssistant:", "\0assistant:").split("\0")[1:]:
        role, _, content = piece.partition(":")
        messages.append({"role": role, "content": content.strip()})
    return messages


def _from_whole_conversations(row: Row, at: At) -> Row:
    for key in ("chosen", "rejected"):
        if not isinstance(row.get(key), list):
            at.refuse(key, row.get(key, NOTHING), "a list of messages")
    return _split_prompt(row, row["chosen"], row["rejected"], at)


def _split_prompt(row: Row, chosen: list[Any], rejected: list[Any], at: At) -> Row:
    """Take what both conversations share, up to the turn where they part, as the prompt."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    prompt = row.get("prompt")
    if shared == 0:
        at.refuse("chosen", Words("another first message than in rejected"), "two conversations that begin alike")
    if prompt is not None and prompt != chosen[:shared]:
        last = chosen[shared - 1]
        if not isinstance(last, dict) or prompt != last.get("content"):
            at.refuse("prompt", prompt, "the messages that chosen and rejected share, or the last of them as text")
    rest = {key: value for key, value in row.items() if key not in ("prompt", "chosen", "rejected")}
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]} | rest


def _holds_whole_conversations(row: Row) -> bool:
    replies = [row.get("chosen"), row.get("rejected")]
    return all(
        isinstance(reply, list) and reply and isinstance(reply[0], dict) and reply[0].get("role") in ("user", "system")
        for reply in replies
    )


def _from_expected(row: Row, at: At) -> Row:
    inputs = row.get("inputs")
    question = inputs.get("question") if isinstance(inputs, dict) else inputs
    if not isinstance(question, str) or not question.strip():
        at.refuse("inputs.question", question if question is not None else NOTHING, "text that is not blank")
    rest = {key: value for key, value in row.items() if key not in ("inputs", "expected", "task_id", "id")}
    if isinstance(inputs, dict):
        rest |= {key: value for key, value in inputs.items() if key != "question"}
    task_id = row.get("task_id", row.get("id", f"{at.place}-{at.line}"))
    return {"task_id": task_id, "prompt": question, "answer": row.get("expected")} | rest


CONVERSIONS: dict[str, Conversion] = {
    conversion.name: conversion
    for conversion in (
        Conversion(
            "sharegpt",
            "ShareGPT",
            "Reads conversations with from and value: human becomes user, gpt becomes assistant, observation becomes tool.",
            RowFormat.MESSAGES,
            lambda row: isinstance(row.get("conversations"), list),
            _from_sharegpt,
        ),
        Conversion(
            "alpaca",
            "Alpaca",
            "Joins instruction and input into the user's turn; output becomes the assistant's.",
            RowFormat.MESSAGES,
            lambda row: "instruction" in row and "output" in row,
            _from_alpaca,
        ),
        Conversion(
            "prompt_completion",
            "Prompt and completion",
            "The prompt becomes the user's turn, the completion the assistant's.",
            RowFormat.MESSAGES,
            lambda row: "prompt" in row and "completion" in row,
            _from_prompt_completion,
        ),
        Conversion(
            "openai",
            "OpenAI fine-tuning",
            "Leaves out weight 1, empty refusal and audio, parallel_tool_calls; developer is system, functions are tools.",
            RowFormat.MESSAGES,
            _has_openai_marks,
            _from_openai,
        ),
        Conversion(
            "openai_preference",
            "OpenAI preference",
            "Reads input.messages as the prompt, preferred_output as chosen, non_preferred_output as rejected.",
            RowFormat.PREFERENCE,
            lambda row: "preferred_output" in row and "non_preferred_output" in row,
            _from_openai_preference,
        ),
        Conversion(
            "hh",
            "Anthropic HH",
            "Splits the text at Human: and Assistant:; what chosen and rejected share becomes the prompt.",
            RowFormat.PREFERENCE,
            lambda row: all(isinstance(row.get(key), str) and "\n\nAssistant:" in row[key] for key in ("chosen", "rejected")),
            _from_hh,
        ),
        Conversion(
            "whole_conversations",
            "Preference, whole conversations",
            "Takes the messages that chosen and rejected share as the prompt.",
            RowFormat.PREFERENCE,
            _holds_whole_conversations,
            _from_whole_conversations,
        ),
        Conversion(
            "inputs_expected",
            "EvSys prompts",
            "Reads inputs.question as the prompt and expected as the answer; rows without an id are named by their place.",
            RowFormat.TASK,
            lambda row: "inputs" in row and "expected" in row,
            _from_expected,
        ),
    )
}

COLUMNS: dict[RowFormat, dict[str, bool]] = {
    RowFormat.MESSAGES: {"system": False, "prompt": True, "reply": True},
    RowFormat.PREFERENCE: {"system": False, "prompt": True, "chosen": True, "rejected": True},
    RowFormat.TASK: {"task_id": False, "system": False, "prompt": True, "answer": True},
}
"""What a column can be mapped to, per format, and whether it must be."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows become ours. `columns` maps a name of COLUMNS to a column of the file; columns that are not mapped become
    metadata when `keep_rest`, else they are left out. At most one of `conversion` and `columns` is given."""

    format: RowFormat
    conversion: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    keep_rest: bool = True

    def __post_init__(self) -> None:
        if self.conversion and self.conversion not in CONVERSIONS:
            raise ConfigError(
                f"There is no conversion {self.conversion!r}. Choose one of: {', '.join(CONVERSIONS)}.", path=("conversion",)
            )
        if self.format not in COLUMNS:
            raise ConfigError(f"The format is one of {', '.join(COLUMNS)}, not {self.format}.", path=("format",))
        known = COLUMNS[self.format]
        for name in self.columns.keys() - known.keys():
            raise ConfigError(f"A {self.format} row has no {name!r}; map {', '.join(known)}.", path=("columns", name))
        for name, needed in known.items():
            if self.columns and needed and not self.columns.get(name):
                raise ConfigError(f"Choose the column that holds {name.replace('_', ' ')}.", path=("columns", name))

    @property
    def title(self) -> str:
        """In words, for people: the conversion, or that columns were chosen, or nothing."""
        return CONVERSIONS[self.conversion].title if self.conversion else "chosen columns" if self.columns else ""

    @property
    def sentence(self) -> str:
        """What a conversion does; empty for none."""
        return CONVERSIONS[self.conversion].sentence if self.conversion else ""

    def convert(self, row: Row, at: At) -> Row:
        """The row in our shape. Raises DataError; what is wrong only after a conversion says so."""
        if not self.conversion and not self.columns:
            return parse(row, self.format, line=at.line, place=at.place)
        refuse_unstorable(row, at)
        converted = CONVERSIONS[self.conversion].convert(row, at) if self.conversion else self._from_columns(row, at)
        try:
            return parse(converted, self.format, line=at.line, place=at.place)
        except DataError as error:
            at.refuse(f"{error.field or 'row'} (as read from {self.title})", Words(error.found), error.expected or "")

    def _from_columns(self, row: Row, at: At) -> Row:
        values: dict[str, Any] = {}
        for name, column in self.columns.items():
            if column:
                values[name] = row.get(column, NOTHING)
                if COLUMNS[self.format][name] and values[name] in (None, "", NOTHING):
                    at.refuse(column, values[name], f"the {name.replace('_', ' ')}")
        prompt = _turns(values["prompt"], self.columns["prompt"], "user", at)
        if values.get("system") not in (None, "", NOTHING):
            prompt = [{"role": "system", "content": values["system"]}, *prompt]
        used = set(self.columns.values())
        rest = {key: value for key, value in row.items() if key not in used} if self.keep_rest else {}
        if self.format is RowFormat.MESSAGES:
            ours: Row = {"messages": [*prompt, *_turns(values["reply"], self.columns["reply"], "assistant", at)]}
        elif self.format is RowFormat.PREFERENCE:
            ours = {"prompt": prompt, "chosen": values["chosen"], "rejected": values["rejected"]}
        else:
            task_id = values.get("task_id", f"{at.place}-{at.line}")
            ours = {"task_id": task_id, "messages": prompt, "answer": values["answer"]}
        return ours | ({"metadata": rest} if rest else {})

    def to_values(self) -> dict[str, Any]:
        """As JSON; `from_values` reads it back."""
        return {"format": self.format, "conversion": self.conversion, "columns": dict(self.columns), "keep_rest": self.keep_rest}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Reading:
        return cls(RowFormat(values["format"]), values["conversion"], values["columns"], values["keep_rest"])


REFINING = frozenset({"openai", "hh", "whole_conversations"})
"""Conversions of rows that have the keys of our own formats, but not their content."""


def recognise(sample: Sequence[Row]) -> Reading | None:
    """How the rows seem to be written, judged by a few of them; None when no format and no conversion fits the first."""
    if not sample:
        return None
    found = detect(sample[0])
    for name, conversion in CONVERSIONS.items():
        candidates = sample if name in REFINING else sample[:1] if found is RowFormat.UNKNOWN else ()
        if any(conversion.recognises(row) for row in candidates):
            return Reading(conversion.format, name)
    return None if found is RowFormat.UNKNOWN else Reading(found)
