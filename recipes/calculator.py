"""A calculator as a tool: the model may call it before it answers. Arithmetic has a parser of its own; no code is evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from recipes.chat import Reply
from recipes.envs import Env, EnvGroupBuilder, FrozenPolicy, Judge, Observation, StepResult, with_system
from recipes.json_verifiers import tool_calls_of
from recipes.types import Task

MAX_CHARACTERS = 200
MAX_DEPTH = 32
MAX_BITS = 2048
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<sign>\*\*|[-+*/%^()−×÷]))")
_SPELLINGS = {"^": "**", "−": "-", "×": "*", "÷": "/"}

TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Gives the value of an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "For example (12 + 7) * 3"}},
            "required": ["expression"],
        },
    },
}
INSTRUCTIONS = (
    "You have a calculator. To use it, reply with nothing but\n"
    '<tool_call>{"name": "calculator", "arguments": {"expression": "(12 + 7) * 3"}}</tool_call>\n'
    "and wait for its answer. When you know the result, reply with it and without a call."
)


def calculate(expression: str) -> str:
    """The value as text: exact where it is whole, else to twelve digits. + − * / % ** and brackets.

    Raises ValueError with what is wrong, also for what would take too long.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"the expression is longer than {MAX_CHARACTERS} characters")
    value = _Parser(_tokens(expression)).result()
    if value.denominator == 1:
        return str(value.numerator)
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        raise ValueError("the result is too large") from None


def _tokens(expression: str) -> list[str]:
    found, position = [], 0
    text = expression.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"{text[position:].lstrip()[:1]!r} is no part of arithmetic")
        token = match["number"] or match["sign"]
        found.append(_SPELLINGS.get(token, token))
        position = match.end()
    return found


class _Parser:
    """sum → product (± product)*, product → signed (*/% signed)*, signed → ±signed | power, power → atom (** signed)?"""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def result(self) -> Fraction:
        value = self._sum()
        if self._peek() is not None:
            raise ValueError(f"{self._peek()!r} stands where an operator should")
        return value

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, *wanted: str) -> str | None:
        token = self._peek()
        if token not in wanted:
            return None
        self._at += 1
        return token

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while sign := self._take("*", "/", "%"):
            other = self._signed()
            if sign != "*" and other == 0:
                raise ValueError("division by zero")
            value = _bounded(value * other if sign == "*" else value / other if sign == "/" else value % other)
        return value

    def _signed(self) -> Fraction:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("the expression is nested too deeply")
        sign = self._take("+", "-")
        value = self._power() if sign is None else self._signed() * (-1 if sign == "-" else 1)
        self._depth -= 1
        return value

    def _power(self) -> Fraction:
        base = self._atom()
        if not self._take("**"):
            return base
        exponent = self._signed()
        if exponent.denominator != 1:
            raise ValueError("only whole exponents are known")
        power = exponent.numerator
        if base == 0 and power < 0:
            raise ValueError("division by zero")
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits > 1 and abs(power) * bits > MAX_BITS:
            raise ValueError("the result is too large")
        return Fraction(base**power)

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self._sum()
            if not self._take(")"):
                raise ValueError("a bracket is not closed")
            return value
        token = self._peek()
        if token is None:
            raise ValueError("the expression ends too early")
        if not (token[0].isdigit() or token[0] == "."):
            raise ValueError(f"{token!r} stands where a number should")
        self._at += 1
        return Fraction(token)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ValueError("the result is too large")
    return value


class CalculatorEnv(Env):
    """Calls are answered until a reply makes none; that one is judged. After `max_turns` the last reply is judged as it is."""

    def __init__(self, task: Task, judge: Judge, max_turns: int, system_prompt: str | None = None) -> None:
        self._task = task
        self._judge = judge
        self._max_turns = max_turns
        self._messages = with_system(task.messages, INSTRUCTIONS if system_prompt is None else system_prompt)
        self._turn = self._num_calls = self._num_failed = 0

    async def initial_observation(self) -> Observation:
        return Observation(list(self._messages), [TOOL, *self._task.tools])

    async def step(self, reply: Reply) -> StepResult:
        self._turn += 1
        self._messages.append(reply.message)
        answers = self._answers(reply)
        if answers and self._turn < self._max_turns:
            self._messages += answers
            return StepResult(episode_done=False, answers=answers)
        verdict = await self._judge.verdict(reply.text, self._task, self._messages)
        metrics = {"tool_calls": float(self._num_calls), "tool_errors": float(self._num_failed)}
        return StepResult(
            verdict.reward, is_correct=verdict.is_correct, info=verdict.info, metrics={**verdict.signals, **metrics}
        )

    def _answers(self, reply: Reply) -> list[dict[str, Any]]:
        """What the calls of a reply give; [] when it makes none. A call that cannot be read is answered too."""
        try:
            calls = tool_calls_of(reply.message, reply.text)
        except ValueError as error:
            return [self._answer(f"error: {error}", failed=True)]
        return [self._answer_to(call) for call in calls[:8]]

    def _answer_to(self, call: dict[str, Any]) -> dict[str, Any]:
        if call["name"] != "calculator":
            return self._answer(f"error: there is no tool {str(call['name'])[:100]}", failed=True)
        expression = call["arguments"].get("expression")
        if not isinstance(expression, str):
            return self._answer("error: the argument expression is missing", failed=True)
        try:
            return self._answer(calculate(expression))
        except ValueError as error:
            return self._answer(f"error: {error}", failed=True)

    def _answer(self, text: str, *, failed: bool = False) -> dict[str, Any]:
        self._num_calls += 1
        self._num_failed += failed
        return {"role": "tool", "name": "calculator", "content": text}


@dataclass
class CalculatorGroupBuilder(EnvGroupBuilder):
    """`num_envs` attempts at one problem, each with a calculator."""

    task: Task
    judge: Judge
    num_envs: int
    max_turns: int = 4
    system_prompt: str | None = None

    async def make_envs(self, frozen: FrozenPolicy | None = None) -> Sequence[Env]:
        return [CalculatorEnv(self.task, self.judge, self.max_turns, self.system_prompt) for _ in range(self.num_envs)]
