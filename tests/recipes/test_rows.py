from __future__ import annotations

from typing import Any

import pytest

from recipes.errors import DataError
from recipes.jsonl import shown
from recipes.rows import RowFormat, check, detect, parse

USER = {"role": "user", "content": "What is 2 + 2?"}
REPLY = {"role": "assistant", "content": "4"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}


def chat(*messages: Any, **rest: Any) -> dict[str, Any]:
    return {"messages": list(messages), **rest}


def refusal(row: Any, format: RowFormat = RowFormat.MESSAGES) -> DataError:
    with pytest.raises(DataError) as caught:
        parse(row, format, line=7)
    return caught.value


@pytest.mark.parametrize(
    ("row", "format"),
    [
        (chat(USER, REPLY), RowFormat.MESSAGES),
        (chat(USER, REPLY, task_id="a", reward=1.0), RowFormat.MESSAGES),
        (chat(USER, task_id="a", answer="4"), RowFormat.TASK),
        ({"task_id": "a", "prompt": "2 + 2?", "verifier": "exact"}, RowFormat.TASK),
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, RowFormat.PREFERENCE),
        ({"instruction": "Add.", "output": "4"}, RowFormat.UNKNOWN),
        ({}, RowFormat.UNKNOWN),
    ],
)
def test_a_row_is_told_by_its_keys(row: dict[str, Any], format: RowFormat) -> None:
    assert detect(row) is format


def test_a_plain_chat_is_kept_as_it_is() -> None:
    row = chat({"role": "system", "content": "Be brief."}, USER, REPLY, metadata={"source": "book"})
    assert parse(row, RowFormat.MESSAGES, line=1) == row


def test_a_chat_with_tools_and_reasoning_comes_in_one_shape() -> None:
    text_call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
    row = chat(
        USER,
        {"role": "assistant", "content": None, "reasoning_content": "I add.", "tool_calls": [text_call]},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
        {"role": "assistant", "content": [{"type": "text", "text": "4"}], "tool_calls": None, "name": None},
        tools=[{"type": "function", "function": {"name": "add", "parameters": {}}}],
    )
    parsed = parse(row, RowFormat.MESSAGES, line=1)
    assert parsed["messages"][1] == {
        "role": "assistant",
        "content": "",
        "reasoning": "I add.",
        "tool_calls": [CALL | {"id": "c1"}],
    }
    assert parsed["messages"][3] == {"role": "assistant", "content": [{"type": "text", "text": "4"}]}
    assert parsed["tools"] == row["tools"]


def test_flat_tool_calls_become_nested() -> None:
    row = chat(USER, {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 2}}]})
    assert parse(row, RowFormat.MESSAGES, line=1)["messages"][1]["tool_calls"] == [CALL]


def test_keys_without_a_meaning_are_kept_as_metadata_and_never_dropped() -> None:
    row = chat(USER, REPLY, reward=0.5, metadata={"source": "book"}, note=None)
    assert parse(row, RowFormat.MESSAGES, line=1)["metadata"] == {"source": "book", "reward": 0.5}
    clash = refusal(chat(USER, REPLY, source="x", metadata={"source": "book"}))
    assert clash.field == "source"


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ([], None, "one JSON object per row"),
        ("text", None, "found 'text'"),
        ({}, "messages", "found nothing"),
        (chat(), "messages", "an empty list"),
        ({"messages": "hi"}, "messages", "found 'hi'"),
        (chat(USER), "messages", "at least one assistant turn"),
        (chat("hi"), "messages[0]", "an object with role and content"),
        (
            chat(USER, {"role": "bot", "content": "4"}),
            "messages[1].role",
            "found 'bot'; expected one of system, user, assistant, tool",
        ),
        (chat(USER, {"role": ["assistant"], "content": "4"}), "messages[1].role", "a list of 1"),
        (chat(USER, {"content": "4"}), "messages[1].role", "found nothing"),
        (chat(USER, {"role": "assistant"}), "messages[1].content", "found nothing"),
        (chat(USER, {"role": "assistant", "content": None}), "messages[1].content", "found null"),
        (chat(USER, {"role": "assistant", "content": ""}), "messages[1].content", "empty text"),
        (chat({"role": "user", "content": " \n"}, REPLY), "messages[0].content", "blank text"),
        (chat({"role": "user", "content": 4}, REPLY), "messages[0].content", "found 4"),
        (chat({"role": "user", "content": {"a": 1}}, REPLY), "messages[0].content", "an object with keys a"),
        (chat({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, REPLY), "messages[0].content[0]", "images"),
        (chat({"role": "user", "content": [{"type": "text", "text": 3}]}, REPLY), "messages[0].content[0].text", "found 3"),
        (chat({"role": "user", "content": [{"type": "text"}]}, REPLY), "messages[0].content[0]", "type and text"),
        (chat({"role": "user", "content": []}, REPLY), "messages[0].content", "an empty list"),
        (chat(USER | {"contents": "x"}, REPLY), "messages[0].contents", "no key but role"),
        (chat(USER | {"tool_calls": [CALL]}, REPLY), "messages[0].tool_calls", "only the assistant calls tools"),
        (chat(USER, REPLY | {"tool_calls": "x"}), "messages[1].tool_calls", "a list of tool calls"),
        (chat(USER, REPLY | {"tool_calls": [{"function": {}}]}), "messages[1].tool_calls[0].function.name", "found nothing"),
        (chat(USER, REPLY | {"tool_calls": [{"name": "f", "arguments": "{"}]}), "messages[1].tool_calls[0].arguments", "JSON"),
        (chat(USER, REPLY | {"reasoning": 3}), "messages[1].reasoning", "expected text"),
        (chat(USER, REPLY | {"reasoning": "a", "thinking": "b"}), "messages[1].thinking", "one key for reasoning"),
        (chat(USER, REPLY, tools=[{}]), "tools", "tool definitions"),
        (chat(USER, REPLY, metadata=[]), "metadata", "an object"),
        (chat(USER, REPLY, score=float("nan")), "score", "a finite number"),
        (chat(USER, REPLY, blob=b"x"), "blob", "a value of type bytes"),
        (chat(USER, {"role": "assistant", "content": "\ud83d"}), "messages[1].content", "half a surrogate pair"),
    ],
)
def test_a_bad_chat_is_refused_with_line_field_found_and_expected(row: Any, field: str | None, words: str) -> None:
    error = refusal(row)
    assert (error.line, error.field) == (7, field)
    assert words in str(error)
    assert str(error).startswith("Line 7")
    assert error.found
    assert error.expected


def test_nesting_without_end_is_refused_and_not_a_recursion_error() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert "nesting deeper than 64 levels" in str(refusal(chat(USER, REPLY, extra=deep)))


@pytest.mark.parametrize("text", [True, False])
def test_preferences_come_as_text_or_as_messages(text: bool) -> None:
    row = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    if not text:
        row = {key: [{"role": "user" if key == "prompt" else "assistant", "content": value}] for key, value in row.items()}
    assert parse(row, RowFormat.PREFERENCE, line=1) == {
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "chosen": [{"role": "assistant", "content": "4"}],
        "rejected": [{"role": "assistant", "content": "5"}],
    }


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "a", "chosen": "b"}, "rejected"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "rejected"),
        ({"prompt": "a", "chosen": [USER, REPLY], "rejected": "c"}, "chosen[0].role"),
        ({"prompt": [USER, REPLY], "chosen": "b", "rejected": "c"}, "prompt[1].role"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, "chosen"),
    ],
)
def test_a_bad_preference_is_refused(row: Any, field: str) -> None:
    assert refusal(row, RowFormat.PREFERENCE).field == field


def test_a_task_keeps_its_answer_and_its_number_becomes_text() -> None:
    parsed = parse({"task_id": 12, "prompt": "2 + 2?", "answer": 4, "level": "easy"}, RowFormat.TASK, line=1)
    assert parsed == {
        "task_id": "12",
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "answer": 4,
        "metadata": {"level": "easy"},
    }


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "a", "answer": "b"}, "task_id"),
        ({"task_id": " ", "prompt": "a", "answer": "b"}, "task_id"),
        ({"task_id": True, "prompt": "a", "answer": "b"}, "task_id"),
        ({"task_id": "a", "prompt": "a"}, "answer"),
        ({"task_id": "a", "prompt": "a", "answer": None}, "answer"),
        ({"task_id": "a", "answer": "b"}, "messages"),
        ({"task_id": "a", "prompt": "a", "messages": [USER], "answer": "b"}, "prompt"),
        (chat(USER, REPLY, task_id="a", answer="4"), "messages[1].role"),
    ],
)
def test_a_bad_task_is_refused(row: Any, field: str) -> None:
    assert refusal(row, RowFormat.TASK).field == field


def test_a_row_of_no_known_format_says_which_there_are() -> None:
    error = refusal({"text": "hello"}, RowFormat.UNKNOWN)
    assert "keys text" in str(error)
    assert "messages" in str(error)


def test_a_check_counts_everything_and_lists_the_first_errors() -> None:
    report = check([chat(USER, REPLY), *[chat(USER)] * 80, chat(USER, REPLY)])
    assert (report.format, report.count, report.num_errors, len(report.errors)) == (RowFormat.MESSAGES, 2, 80, 50)
    assert report.errors[0].line == 2
    assert str(report.errors[0]).startswith("Row 2, messages")


def test_two_tasks_of_one_name_are_refused() -> None:
    task = {"task_id": "a", "prompt": "2 + 2?", "answer": "4"}
    report = check([task, task | {"task_id": "b"}, task])
    assert report.num_errors == 1
    assert "row 1 has the same" in str(report.errors[0])


def test_what_was_found_is_told_in_few_words() -> None:
    assert len(shown("x" * 10_000)) < 100
    assert len(shown({f"{'k' * 500}{index}": 1 for index in range(500)})) < 250
    assert shown(True) == "true"
    assert shown(0) == "0"
    assert shown(1.5) == "1.5"
