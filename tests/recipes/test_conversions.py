from __future__ import annotations

from random import Random
from typing import Any

import pytest

from recipes.conversions import CONVERSIONS, Reading, recognise
from recipes.errors import ConfigError, DataError
from recipes.jsonl import At, canonical_line
from recipes.rows import RowFormat

ASK = {"role": "user", "content": "2 + 2?"}
SAY = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
CHAT = {"messages": [ASK, SAY]}
PAIR = {"prompt": [ASK], "chosen": [SAY], "rejected": [WRONG]}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}


def converted(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return Reading(CONVERSIONS[name].format, name).convert(row, At(4))


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("sharegpt", {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}, CHAT),
        ("sharegpt", {"conversations": [ASK, SAY], "id": "x"}, CHAT | {"metadata": {"id": "x"}}),
        (
            "sharegpt",
            {
                "system": "Be brief.",
                "tools": '[{"name": "add"}]',
                "conversations": [
                    {"from": "human", "value": "2 + 2?"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                    {"from": "observation", "value": "4"},
                    {"from": "gpt", "value": "4", "weight": 1},
                ],
            },
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    ASK,
                    {"role": "assistant", "content": "", "tool_calls": [CALL]},
                    {"role": "tool", "content": "4"},
                    SAY,
                ],
                "tools": [{"name": "add"}],
            },
        ),
        ("alpaca", {"instruction": "2 + 2?", "input": "", "output": "4", "system": ""}, CHAT),
        (
            "alpaca",
            {"instruction": "Add.", "input": "2 + 2", "output": "4", "history": [["Hi", "Hello"]], "level": 1},
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello"},
                    {"role": "user", "content": "Add.\n\n2 + 2"},
                    SAY,
                ],
                "metadata": {"level": 1},
            },
        ),
        ("prompt_completion", {"prompt": "2 + 2?", "completion": "4"}, CHAT),
        ("prompt_completion", {"prompt": [ASK], "completion": [SAY]}, CHAT),
        (
            "openai",
            {
                "messages": [
                    {"role": "developer", "content": "Brief."},
                    ASK,
                    SAY | {"weight": 1, "refusal": None, "annotations": []},
                ]
            },
            {"messages": [{"role": "system", "content": "Brief."}, ASK, SAY]},
        ),
        (
            "openai",
            {
                "messages": [
                    ASK,
                    {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 2}'}},
                ],
                "functions": [{"name": "add"}],
                "parallel_tool_calls": False,
            },
            {
                "messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
                "tools": [{"type": "function", "function": {"name": "add"}}],
            },
        ),
        ("openai_preference", {"input": {"messages": [ASK]}, "preferred_output": [SAY], "non_preferred_output": [WRONG]}, PAIR),
        ("hh", {"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"}, PAIR),
        ("whole_conversations", {"chosen": [ASK, SAY], "rejected": [ASK, WRONG]}, PAIR),
        ("whole_conversations", {"prompt": "2 + 2?", "chosen": [ASK, SAY], "rejected": [ASK, WRONG]}, PAIR),
        (
            "inputs_expected",
            {"inputs": {"question": "2 + 2?", "hint": "even"}, "expected": 4},
            {"task_id": "line-4", "messages": [ASK], "answer": 4, "metadata": {"hint": "even"}},
        ),
        ("inputs_expected", {"inputs": "2 + 2?", "expected": "4", "id": 7}, {"task_id": "7", "messages": [ASK], "answer": "4"}),
    ],
)
def test_a_foreign_row_is_recognised_and_becomes_ours(name: str, row: dict[str, Any], expected: dict[str, Any]) -> None:
    reading = recognise([row])
    assert reading is not None
    assert reading.conversion == name
    assert converted(name, row) == expected


@pytest.mark.parametrize(
    ("rows", "format"),
    [
        ([CHAT], RowFormat.MESSAGES),
        ([CHAT | {"prompt": "x", "completion": "y"}], RowFormat.MESSAGES),
        ([PAIR], RowFormat.PREFERENCE),
        ([{"task_id": "a", "prompt": "b", "answer": "c"}], RowFormat.TASK),
    ],
)
def test_rows_of_our_own_are_read_as_they_are(rows: list[dict[str, Any]], format: RowFormat) -> None:
    assert recognise(rows) == Reading(format)


def test_marks_of_a_later_row_are_seen() -> None:
    assert recognise([CHAT, {"messages": [ASK, SAY | {"weight": 1}]}]) == Reading(RowFormat.MESSAGES, "openai")


@pytest.mark.parametrize("rows", [[], [{"question": "2 + 2?", "solution": "4"}]])
def test_what_is_not_known_is_not_guessed(rows: list[dict[str, Any]]) -> None:
    assert recognise(rows) is None


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [
        ("sharegpt", {}, "conversations"),
        ("sharegpt", {"conversations": ["x"]}, "conversations[0]"),
        ("sharegpt", {"conversations": [{"from": "alien", "value": "x"}]}, "conversations[0].from"),
        ("sharegpt", {"conversations": [{"from": ["human"], "value": "x"}]}, "conversations[0].from"),
        ("sharegpt", {"conversations": [{"from": "human", "value": 3}]}, "conversations[0].value"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "x", "weight": 0}]}, "conversations[0].weight"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "x", "note": 0}]}, "conversations[0].note"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "x"}]}, "messages (as read from ShareGPT)"),
        ("alpaca", {"instruction": "a", "output": " "}, "output"),
        ("alpaca", {"instruction": "a", "output": "b", "input": 3}, "input"),
        ("alpaca", {"instruction": "a", "output": "b", "history": ["x"]}, "history[0]"),
        ("prompt_completion", {"prompt": "a", "completion": ""}, "completion"),
        ("openai", {"messages": [ASK, SAY | {"weight": 0}]}, "messages[1].weight"),
        ("openai", {"messages": [ASK, SAY | {"refusal": "No."}]}, "messages[1].refusal"),
        ("openai_preference", {"input": "x"}, "input"),
        ("hh", {"chosen": "x", "rejected": "y"}, "chosen"),
        ("whole_conversations", {"chosen": [ASK, SAY], "rejected": [SAY]}, "chosen"),
        ("whole_conversations", {"prompt": "other", "chosen": [ASK, SAY], "rejected": [ASK, WRONG]}, "prompt"),
        ("inputs_expected", {"inputs": {}, "expected": "4"}, "inputs.question"),
        ("inputs_expected", {"inputs": "a"}, "answer (as read from EvSys prompts)"),
    ],
)
def test_a_foreign_row_that_is_bad_is_refused_under_its_own_names(name: str, row: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError) as caught:
        converted(name, row)
    assert (caught.value.line, caught.value.field) == (4, field)
    assert caught.value.expected


@pytest.mark.parametrize("keep_rest", [True, False])
def test_columns_become_parts_of_a_row(keep_rest: bool) -> None:
    reading = Reading(RowFormat.MESSAGES, columns={"system": "s", "prompt": "q", "reply": "a"}, keep_rest=keep_rest)
    row = reading.convert({"q": "2 + 2?", "a": "4", "s": "", "level": 3}, At(1))
    assert row == CHAT | ({"metadata": {"level": 3}} if keep_rest else {})
    assert Reading.from_values(reading.to_values()) == reading


def test_columns_make_preferences_and_tasks() -> None:
    pair = Reading(RowFormat.PREFERENCE, columns={"prompt": "q", "chosen": "good", "rejected": "bad"})
    assert pair.convert({"q": "2 + 2?", "good": "4", "bad": "5"}, At(1)) == PAIR
    task = Reading(RowFormat.TASK, columns={"prompt": "q", "answer": "a"})
    assert task.convert({"q": "2 + 2?", "a": 4}, At(9, "row")) == {"task_id": "row-9", "messages": [ASK], "answer": 4}


def test_a_cell_that_is_missing_is_named_by_its_column() -> None:
    reading = Reading(RowFormat.MESSAGES, columns={"prompt": "q", "reply": "a"})
    with pytest.raises(DataError, match="Line 3, a: found nothing; expected the reply"):
        reading.convert({"q": "2 + 2?"}, At(3))


@pytest.mark.parametrize(
    "values",
    [
        {"format": RowFormat.UNKNOWN},
        {"format": RowFormat.MESSAGES, "conversion": "nope"},
        {"format": RowFormat.MESSAGES, "columns": {"prompt": "q"}},
        {"format": RowFormat.MESSAGES, "columns": {"prompt": "q", "reply": "a", "other": "b"}},
    ],
)
def test_a_reading_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Reading(**values)


JUNK: list[Any] = [
    None,
    True,
    3,
    1.5,
    float("nan"),
    "",
    " ",
    "x",
    "\ud800",
    [],
    [[]],
    ["x"],
    {},
    {"role": 3},
    {"a": {}},
    "{",
    "[1]",
]
SEEDS: list[dict[str, Any]] = [
    CHAT | {"tools": [{"name": "f"}], "metadata": {}},
    {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning": "r"}, SAY | {"weight": 1}]},
    PAIR,
    {"task_id": "a", "messages": [ASK], "answer": "4"},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}], "tools": "[]", "system": "s"},
    {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]], "system": "s"},
    {"prompt": "a", "completion": "b"},
    {"messages": [ASK, SAY | {"function_call": {"name": "f", "arguments": "{}"}}], "functions": [{"name": "f"}]},
    {"input": {"messages": [ASK], "tools": []}, "preferred_output": [SAY], "non_preferred_output": [WRONG]},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    {"prompt": "2 + 2?", "chosen": [ASK, SAY], "rejected": [ASK, WRONG]},
    {"inputs": {"question": "a"}, "expected": "b", "id": "c"},
]


def spoiled(value: Any, random: Random) -> Any:
    """The value with one of its parts replaced by junk, or taken away."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.15:
            return {other: item for other, item in value.items() if other != key}
        return {**value, key: spoiled(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        index = random.randrange(len(value))
        return [*value[:index], spoiled(value[index], random), *value[index + 1 :]]
    return random.choice(JUNK)


def test_no_row_however_spoiled_ends_in_anything_but_a_refusal() -> None:
    random = Random(1)
    readings = [Reading(format) for format in RowFormat if format is not RowFormat.UNKNOWN]
    readings += [Reading(conversion.format, name) for name, conversion in CONVERSIONS.items()]
    readings.append(Reading(RowFormat.PREFERENCE, columns={"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}))
    num_good = 0
    for _ in range(2000):
        row = spoiled(random.choice(SEEDS), random)
        if not isinstance(row, dict):
            continue
        recognise([row])
        for reading in random.sample(readings, 4):
            try:
                canonical_line(reading.convert(row, At(1)))
                num_good += 1
            except DataError as error:
                assert error.line == 1 and error.expected
    assert num_good > 50
