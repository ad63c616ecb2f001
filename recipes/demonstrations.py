"""What the teacher of self-distillation reads besides the question: a template filled in from the row itself.

A template is text with names in braces: {question} is the last user message before the reply, {golden_answer} the reply that the
row shows (its reasoning first, where it has some), any other name a text in the row's metadata. Two braces write one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any, NamedTuple

from recipes.errors import DataError
from recipes.rows import RowFormat, parse
from recipes.types import Row

QUESTION, GOLDEN_ANSWER = "question", "golden_answer"
DEMONSTRATION = (
    "{question}\n\nThis is how somebody answered it well:\n\n{golden_answer}\n\n"
    "Now answer it yourself, in your own words, and show your thinking."
)


class Lesson(NamedTuple):
    """Two conversations that wait for the same reply: as the student reads it, and as the teacher does."""

    student: list[Row]
    teacher: list[Row]
    tools: Sequence[Any] | None


def check_template(template: str) -> str:
    """For a Config: the template as given. Raises ValueError for one that cannot be filled in."""
    try:
        names = [name for _, name, *_ in _parts(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"the template cannot be read: {error}. Write {{{{ and }}}} for braces that are meant as such") from None
    for name in names:
        if not name.isidentifier():
            raise ValueError(
                f"{{{name}}} is no name: put {{{QUESTION}}}, {{{GOLDEN_ANSWER}}} or a name of the metadata in braces"
            )
    return template


def lesson_of(row: Row, number: int, *, template: str, system_prompt: str | None) -> Lesson:
    """Of a row of messages; what follows its last reply is left out. An empty template shows the teacher nothing besides.

    Raises DataError, naming the row, for one that is none or that lacks what the template asks for.
    """
    parsed = parse(row, RowFormat.MESSAGES, line=number, place="row")
    messages = parsed["messages"]
    reply = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    student = messages[:reply]
    questions = [index for index, message in enumerate(student) if message["role"] == "user"]
    if not questions:
        raise DataError(
            f"Row {number:,} has no user message before its last reply, so there is nothing to answer.",
            line=number,
            field="messages",
        )
    if system_prompt and student[0]["role"] != "system":
        student = [{"role": "system", "content": system_prompt}, *student]
        questions = [index + 1 for index in questions]
    asked = questions[-1]
    if not template:
        return Lesson(student, student, parsed.get("tools"))
    known = {**parsed.get("metadata", {}), QUESTION: _text(student[asked]), GOLDEN_ANSWER: _shown_reply(messages[reply])}
    shown = {"role": "user", "content": _filled_in(template, known, number)}
    return Lesson(student, [*student[:asked], shown, *student[asked + 1 :]], parsed.get("tools"))


def _parts(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """(text, name, format, conversion) of each piece. Raises ValueError for braces that do not match, and for anything in them
    but a name: a format or a conversion would only be dropped."""
    found = list(Formatter().parse(template))
    for _, name, format_spec, conversion in found:
        if format_spec or conversion:
            raise ValueError(f"{{{name}}} is followed by a format")
    return found


def _filled_in(template: str, known: Mapping[str, Any], number: int) -> str:
    """What stands in a row is put in as it is: braces in it mean nothing."""
    pieces = []
    for text, name, *_ in _parts(template):
        pieces.append(text)
        if name is None:
            continue
        value = known.get(name)
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"Row {number:,} has no text for {{{name}}} of demo_template."
                f" It has: {', '.join(sorted(key for key, each in known.items() if isinstance(each, str) and each.strip()))}.",
                line=number,
                field=name,
            )
        pieces.append(value)
    return "".join(pieces)


def _text(message: Row) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(block["text"] for block in content)


def _shown_reply(message: Row) -> str:
    return "\n\n".join(part for part in (message.get("reasoning", "").strip(), _text(message).strip()) if part)
