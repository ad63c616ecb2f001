"""What the teacher reads: templates filled in from rows, and every way a template or a row does not fit."""

from __future__ import annotations

import re
from typing import Any

import pytest

from recipes.algorithms.sdft import SDFTConfig
from recipes.demonstrations import DEMONSTRATION, Lesson, lesson_of
from recipes.errors import DataError


def ask(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def say(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def lesson(*messages: dict[str, Any], template: str = "Q: {question} A: {golden_answer}", **row: Any) -> Lesson:
    system_prompt = row.pop("system_prompt", None)
    return lesson_of({"messages": list(messages), **row}, 3, template=template, system_prompt=system_prompt)


def test_the_teacher_reads_the_reply_and_the_student_only_the_question() -> None:
    found = lesson(ask("1 + 1?"), say("2"))
    assert found.student == [ask("1 + 1?")]
    assert found.teacher == [ask("Q: 1 + 1? A: 2")]
    assert lesson(ask("1 + 1?"), say("2"), template="").teacher == [ask("1 + 1?")]
    assert "1 + 1?" in lesson(ask("1 + 1?"), say("2"), template=DEMONSTRATION).teacher[0]["content"]


def test_earlier_turns_are_context_for_both_and_what_follows_the_reply_for_neither() -> None:
    tools = [{"function": {"name": "add"}}]
    found = lesson(ask("Hi"), say("Hello"), ask("1 + 1?"), say("2"), ask("Thanks"), tools=tools)
    assert found.student == [ask("Hi"), say("Hello"), ask("1 + 1?")]
    assert found.teacher == [ask("Hi"), say("Hello"), ask("Q: 1 + 1? A: 2")]
    assert found.tools == tools


def test_a_tools_answer_after_the_question_stays_where_it_is() -> None:
    call = say("", tool_calls=[{"function": {"name": "add", "arguments": {}}}])
    found = lesson(ask("1 + 1?"), call, {"role": "tool", "content": "2"}, say("It is 2."))
    assert found.teacher[0] == ask("Q: 1 + 1? A: It is 2.")
    assert [message["role"] for message in found.teacher] == ["user", "assistant", "tool"] and found.teacher[1:] == found.student[
        1:
    ]


def test_a_system_prompt_is_for_both_unless_the_row_has_its_own() -> None:
    found = lesson(ask("1 + 1?"), say("2"), system_prompt="Be brief.")
    assert found.student[0] == found.teacher[0] == {"role": "system", "content": "Be brief."}
    assert found.teacher[1] == ask("Q: 1 + 1? A: 2")
    own = {"role": "system", "content": "Be long."}
    assert lesson(own, ask("1 + 1?"), say("2"), system_prompt="Be brief.").student == [own, ask("1 + 1?")]


def test_reasoning_text_blocks_and_metadata_can_be_shown() -> None:
    blocks = [{"type": "text", "text": "1 +"}, {"type": "text", "text": "1?"}]
    found = lesson(ask(blocks), say("2", reasoning="One and one."), template="{question}|{golden_answer}|{hint}", hint="Count.")
    assert found.teacher == [ask("1 +\n1?|One and one.\n\n2|Count.")]


def test_braces_in_rows_mean_nothing_and_doubled_ones_in_a_template_are_braces() -> None:
    hostile = "{golden_answer} {0} {question.__class__} {{"
    assert lesson(ask(hostile), say("{}"), template="{{{question}}} {golden_answer}").teacher == [ask("{" + hostile + "} {}")]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{question", "cannot be read"),
        ("}", "cannot be read"),
        ("{}", "{} is no name"),
        ("{0}", "{0} is no name"),
        ("{question.__class__}", "is no name"),
        ("{question[0]}", "is no name"),
        ("{question!r}", "followed by a format"),
        ("{question:>10}", "followed by a format"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused_with_the_settings(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SDFTConfig(demo_template=template)


@pytest.mark.parametrize(
    ("messages", "template", "message"),
    [
        ([ask("1 + 1?"), say("2")], "{hint}", "Row 3 has no text for {hint} of demo_template. It has: golden_answer, question"),
        ([ask("1 + 1?"), say("", tool_calls=[{"function": {"name": "add"}}])], "{golden_answer}", "no text for {golden_answer}"),
        ([say("2")], "{question}", "Row 3 has no user message before its last reply"),
        ([ask("1 + 1?")], "{question}", "at least one assistant turn"),
    ],
)
def test_a_row_that_lacks_what_is_shown_is_refused_by_its_number(messages: list[Any], template: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        lesson(*messages, template=template)


def test_metadata_that_is_no_text_is_not_shown() -> None:
    with pytest.raises(DataError, match="no text for {hint}"):
        lesson(ask("1 + 1?"), say("2"), template="{hint}", hint=7)
