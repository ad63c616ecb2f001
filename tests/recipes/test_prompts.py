"""Which prompts are the same: what pipelines change does not count, what changes the question does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.prompts import learnt, learnt_prompts, normalised, prompt_key, task_key


def asks(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2 + 2?", "  what IS\n2 + 2 "),
        ("“Zwölf” Äpfel!", '"ZWÖLF" a\u0308pfel'),
        ("ｆｕｌｌ ｗｉｄｔｈ", "full width"),
        ("zero\u200bwidth", "zerowidth"),
        ("2 − 1?", "2 - 1"),
        ("It costs 2.50.", "it costs 2.50"),
        ([{"type": "text", "text": "What is 2 + 2?"}], "What is 2 + 2?"),
    ],
)
def test_prompts_that_ask_the_same_share_a_key(one: Any, other: Any) -> None:
    assert prompt_key(asks(one)) == prompt_key(asks(other)) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2 + 2?", "What is 2 - 2?"),
        ("What is 12 + 2?", "What is 1 + 22?"),
        ("It costs 2.5", "It costs 25"),
        ("It costs 1,000", "It costs 1 000"),
        ("Is a < b?", "Is a > b?"),
    ],
)
def test_prompts_that_ask_something_else_do_not(one: str, other: str) -> None:
    assert prompt_key(asks(one)) != prompt_key(asks(other))


def test_a_system_message_and_an_empty_prompt_say_nothing() -> None:
    assert prompt_key([{"role": "system", "content": "Be brief."}, *asks("2 + 2")]) == prompt_key(asks("2 + 2"))
    assert prompt_key([]) is prompt_key(asks(" ?! ")) is prompt_key(asks(None)) is None
    assert prompt_key(["nonsense", 3, {"role": "user", "content": {"deep": 1}}]) is None


@given(st.text())
def test_what_is_normalised_stays_as_it_is(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_a_row_teaches_every_prompt_that_it_answers() -> None:
    first, second = asks("One?"), [*asks("One?"), {"role": "assistant", "content": "1"}, *asks("Two?")]
    chat = {"messages": [*second, {"role": "assistant", "content": "2"}]}
    assert list(learnt_prompts(chat)) == [prompt_key(first), prompt_key(second)]
    assert list(learnt_prompts({"prompt": first, "chosen": [], "rejected": []})) == [prompt_key(first)]
    assert list(learnt_prompts({"task_id": "t", "messages": first, "answer": 1})) == [prompt_key(first)]
    assert list(learnt_prompts({"messages": [{"role": "assistant", "content": "Hello"}]})) == []
    named = {"messages": [], "metadata": {"benchmark": "Sums", "task_id": "sum-1"}}
    assert list(learnt(named)) == [task_key("Sums", "sum-1")] != [task_key("Sum", "s sum-1")]
