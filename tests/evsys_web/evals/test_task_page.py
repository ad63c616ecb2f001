"""Attempts at one task beside each other: the shared prompt once, what each replied, why it has no verdict."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from evsys_web.evals.attempts import side_by_side
from evsys_web.evals.models import Attempt
from tests.evsys_web.evals.eval_runs import build_eval

HOSTILE = "<img src=x onerror=alert(1)>"


def body(client: Client, run: Any, position: int = 1, **parameters: str) -> str:
    return client.get(f"/evals/{run.pk}/tasks/{position}", parameters).content.decode()


def attempt(*messages: Any, error: str = "") -> Attempt:
    return Attempt(messages=list(messages), error=error)


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_it_shows_the_prompt_once_and_every_reply_with_its_verdict(alice_client: Client, alice, project):
    run = build_eval(project, alice, {"one": [True, False, None]}, reply="It is 4, I think.")
    text = body(alice_client, run)
    assert text.count("Be brief.") == 1 and text.count("It is 4, I think.") == 2
    assert all(word in text for word in (">right<", ">wrong<", ">error<", "7 tokens", "0.25 s", "found", "Answer"))
    assert "The server answered 429 too often." in text and "Cause: rate limit. Not counted as wrong." in text


def test_a_reply_that_was_cut_off_says_so(alice_client: Client, alice, project):
    run = build_eval(project, alice, {"one": [False]})
    Attempt.objects.update(stop_reason="length")
    assert "cut off at the longest reply" in body(alice_client, run)


def test_a_task_that_is_not_there_is_not_found(alice_client: Client, alice, project):
    run = build_eval(project, alice)
    assert alice_client.get(f"/evals/{run.pk}/tasks/99").status_code == 404


def test_only_a_page_of_many_attempts_is_read(alice_client: Client, alice, project):
    run = build_eval(project, alice, {"one": [True] * 40})
    text = body(alice_client, run)
    assert text.count('id="attempt-') == 16 and "1–16 of 40 attempts" in text
    assert 'id="attempt-40"' in body(alice_client, run, page="3")


def test_replies_that_are_alike_stay_with_their_attempts():
    chat = [said("user", "2 + 2?"), said("assistant", "4")]
    prompt, shown = side_by_side([attempt(*chat), attempt(*chat)])
    assert [turn.text for turn in prompt.turns] == ["2 + 2?"]
    assert [turn.text for each in shown for turn in each.reply.turns] == ["4", "4"]


def test_what_differs_early_is_shown_with_each_attempt():
    prompt, shown = side_by_side([attempt(said("user", "a"), said("assistant", "x")), attempt(said("user", "b"), error="lost")])
    assert prompt.turns == [] and [len(each.reply.turns) for each in shown] == [2, 1]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["just text"],
        [None],
        [{"role": ["x"], "content": {"deep": [1]}}],
        [{"content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}, "junk", {"function": None}]}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
        {"not": "a list"},
    ],
)
def test_conversations_of_any_shape_are_shown(messages):
    _, shown = side_by_side([Attempt(messages=messages)])
    assert len(shown) == 1


def test_blocks_of_text_are_read_as_text():
    blocks = [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]
    _, shown = side_by_side([attempt(said("user", "2 + 2?"), said("assistant", blocks))])
    assert shown[0].reply.turns[0].text == "first\nsecond"


def test_hostile_words_are_escaped(alice_client: Client, alice, project):
    run = build_eval(project, alice, {HOSTILE: [True, None]}, reply=HOSTILE)
    Attempt.objects.update(
        info={HOSTILE: HOSTILE},
        error_kind=HOSTILE,
        stop_reason=HOSTILE,
        messages=[{"role": f'x"{HOSTILE}', "name": HOSTILE, "content": HOSTILE, "reasoning": HOSTILE}],
    )
    assert HOSTILE not in body(alice_client, run)
