"""The calculator: what it can work out, what it refuses, and how a model talks to it."""

from __future__ import annotations

import asyncio
import pickle
import time

import pytest

from recipes.calculator import CalculatorEnv, CalculatorGroupBuilder, calculate
from recipes.chat import Reply
from recipes.envs import Judge, Observation, StepResult
from recipes.types import Task


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("7 - 2 - 1", "4"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("2 ^ 10", "1024"),
        ("2 ** -1", "0.5"),
        ("0 ** 2", "0"),
        ("(-1) ** 1000000000", "1"),
        ("1 / 3", "0.333333333333"),
        ("7 % 4", "3"),
        ("-7 % 4", "1"),
        ("0.1 + 0.2", "0.3"),
        (".5 * 4.", "2"),
        ("12 × 3 ÷ 4 − 1", "8"),
        ("--3", "3"),
        ("  8  ", "8"),
    ],
)
def test_arithmetic_by_table(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("", "ends too early"),
        ("1 +", "ends too early"),
        ("1 2", "'2' stands where an operator should"),
        ("(1 + 2", "a bracket is not closed"),
        ("1 + 2)", "'\\)' stands where an operator"),
        ("* 3", "'\\*' stands where a number"),
        ("1 / 0", "division by zero"),
        ("1 % (2 - 2)", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("2 ** 0.5", "whole exponents"),
        ("9 ** 9 ** 9", "too large"),
        ("9" * 150 + " ** 30", "too large"),
        ("1" + "+1" * 200, "longer than 200"),
        ("(" * 60 + "1" + ")" * 60, "nested too deeply"),
        ("-" * 100 + "1", "nested too deeply"),
        ("__import__('os').system('true')", "'_' is no part of arithmetic"),
        ("1,000", "',' is no part of arithmetic"),
        ("x + 1", "'x' is no part"),
    ],
)
def test_what_is_no_arithmetic_or_too_much_is_refused_in_a_moment(expression: str, sentence: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=sentence):
        calculate(expression)
    assert time.process_time() - began < 1


def reply(text: str) -> Reply:
    return Reply(text, {"role": "assistant", "content": text}, "stop", 3, 2, 0.1)


def call(expression: str) -> str:
    return f'<tool_call>{{"name": "calculator", "arguments": {{"expression": "{expression}"}}}}</tool_call>'


TASK = Task("t", [{"role": "user", "content": "What is 12 * 12?"}], answer=144)


def talk(*texts: str, max_turns: int = 4) -> list[StepResult]:
    async def run() -> list[StepResult]:
        env = CalculatorEnv(TASK, Judge("numeric", {}), max_turns)
        opening = await env.initial_observation()
        assert isinstance(opening, Observation) and opening.messages[0]["role"] == "system" and opening.tools
        return [await env.step(reply(text)) for text in texts]

    return asyncio.run(run())


def test_a_call_is_answered_and_the_reply_without_one_is_judged() -> None:
    asked, ended = talk(call("12 * 12"), "It is 144.")
    assert not asked.episode_done and asked.reward == 0
    assert asked.answers == [{"role": "tool", "name": "calculator", "content": "144"}]
    assert ended.episode_done and ended.reward == 1 and ended.is_correct
    assert ended.metrics == {"tool_calls": 1.0, "tool_errors": 0.0}


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (call("12 *"), "error: the expression ends too early"),
        ('<tool_call>{"name": "python", "arguments": {}}</tool_call>', "error: there is no tool python"),
        ('<tool_call>{"name": "calculator", "arguments": {}}</tool_call>', "error: the argument expression is missing"),
        ('<tool_call>{"name": "calculator", "arguments": {"expression": 5}}</tool_call>', "error: the argument expression"),
        ("<tool_call>12 * 12</tool_call>", "error: '12 \\* 12' is no tool call"),
    ],
)
def test_a_call_that_cannot_be_made_is_answered_with_a_sentence(said: str, answer: str) -> None:
    asked, ended = talk(said, "144")
    (message,) = asked.answers
    assert message["content"].startswith(answer.replace("\\", ""))
    assert ended.metrics["tool_errors"] == 1 and ended.is_correct


def test_several_calls_in_one_reply_are_each_answered() -> None:
    asked, _ = talk(call("1 + 1") + call("2 + 2"), "144")
    assert [message["content"] for message in asked.answers] == ["2", "4"]


def test_the_last_turn_is_judged_even_if_it_calls_again() -> None:
    *asked, ended = talk(*[call("1")] * 3, max_turns=3)
    assert not any(result.episode_done for result in asked)
    assert ended.episode_done and not ended.is_correct


def test_a_builder_can_be_pickled_and_makes_fresh_envs() -> None:
    builder = pickle.loads(pickle.dumps(CalculatorGroupBuilder(TASK, Judge("numeric", {}), 3)))
    envs = asyncio.run(builder.make_envs())
    assert len({id(env) for env in envs}) == 3
