"""What counts as right, what as wrong, and what cannot be judged at all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from recipes.errors import ConfigError, VerifierError
from recipes.eval_config import EvalConfig
from recipes.registry import verifiers
from recipes.types import Task
from recipes.verifiers import Verdict, Verifier, check_tasks, numbers_in


def verify(kind: str, completion: str, expected: Any = None, **params: Any) -> Verdict:
    verifier: Verifier = verifiers.get(kind)(**params)
    verdict = verifier.verify(completion, expected)
    assert isinstance(verdict, Verdict)
    return verdict


def is_right(kind: str, completion: str, expected: Any = None, **params: Any) -> bool:
    verdict = verify(kind, completion, expected, **params)
    assert verdict.reward == float(verdict.is_correct)
    return verdict.is_correct


@pytest.mark.parametrize(
    ("kind", "completion", "expected", "params", "right"),
    [
        ("exact_match", "  Paris\n", "paris", {}, True),
        ("exact_match", "Paris.", "Paris", {}, False),
        ("exact_match", "Paris.", "Paris", {"ignore_punctuation": True}, True),
        ("exact_match", "Paris", "paris", {"ignore_case": False}, False),
        ("exact_match", "12", 12, {}, True),
        ("exact_match", "Lyon", ["Paris", "Lyon"], {}, True),
        ("contains", "It is 12, I think", 12, {}, True),
        ("contains", "It is 123", 12, {}, False),
        ("contains", "It is 123", 12, {"whole_words": False}, True),
        ("contains", "a+b?", "a+b?", {}, True),
        ("regex_match", "I say B. No, answer: C", "C", {"pattern": r"answer: ([A-D])"}, True),
        ("regex_match", "answer: B, answer: C", "B", {"pattern": r"answer: ([A-D])"}, False),
        ("regex_match", "nothing", "B", {"pattern": r"answer: ([A-D])"}, False),
        ("regex_match", "a dog", None, {"pattern": "cat|dog"}, True),
        ("regex_match", "two cats", "cats?$", {}, True),
        ("format_only", "<think>x</think> y", None, {"pattern": "(?s)<think>.*</think>.+"}, True),
        ("format_only", "y", None, {"pattern": "(?s)<think>.*</think>.+"}, False),
        ("format_only", " \n", None, {}, False),
        ("format_only", "too long", None, {"max_characters": 3}, False),
        ("json_schema", 'Here: {"a": 1} ok', {"type": "object", "required": ["a"]}, {}, True),
        ("json_schema", 'Here: {"a": 1} ok', {"type": "object"}, {"find": False}, False),
        ("json_schema", "```json\n[1, 2]\n```", {"type": "array", "items": {"type": "integer"}}, {}, True),
        ("json_schema", '{"a": "x"}', {"properties": {"a": {"type": "integer"}}}, {}, False),
        ("json_schema", "no json", {}, {}, False),
        ("json_schema", "[NaN, 1e999]", {}, {}, False),
    ],
)
def test_a_reply_is_right_or_wrong(kind: str, completion: str, expected: Any, params: dict[str, Any], right: bool) -> None:
    assert is_right(kind, completion, expected, **params) is right


@pytest.fixture(scope="module")
def algebra() -> Iterator[Verifier]:
    """One for all: the process in which it compares takes seconds to load. Its patience is longer than a machine is busy."""
    verifier: Verifier = verifiers.get("math")(timeout_seconds=60)
    yield verifier
    verifier._compare.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("completion", "expected", "right"),
    [
        (r"So it is $\frac{1}{2}$.", "0.5", True),
        (r"\boxed{(x+1)^2}", "$x^2+2x+1$", True),
        (r"\boxed{7}", "8", False),
        ("I do not know", "8", False),
        ("The answer is 1,234", 1234, True),
    ],
)
def test_what_is_equal_by_algebra_is_right(algebra: Verifier, completion: str, expected: Any, right: bool) -> None:
    verdict = algebra.verify(completion, expected)
    assert verdict.is_correct is right and verdict.reward == float(right)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("16 - 3 = 13", ["16", "3", "13"]),
        ("16-3=-13", ["16", "3", "-13"]),
        ("it costs $1,234.50!", ["1234.50"]),
        ("-$5 and −7", ["-5", "-7"]),
        ("x2 is no number, 5kg has one", ["5"]),
        ("about 2.5e3 or .5", ["2.5E+3", "0.5"]),
        ("half is 1/2", ["0.5"]),
        ("1/0", []),
        ("1,23 and 12,345,678", ["1", "23", "12345678"]),
        ("No. 7.", ["7"]),
        ("none", []),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, found: list[str]) -> None:
    assert [str(value) for value in numbers_in(text)] == found


def test_numeric_takes_the_last_number_the_first_or_the_one_behind_a_marker() -> None:
    text = "12 eggs less 3 are\n#### 9 (not 10)"
    assert is_right("numeric", text, 10)
    assert is_right("numeric", text, 12, pick="first")
    assert is_right("numeric", text, "9", marker="####", pick="first")
    assert not is_right("numeric", "9", "9", marker="####")
    assert not is_right("numeric", "I cannot say", 9)


def test_numeric_looks_from_the_end_and_finds_what_reading_everything_finds() -> None:
    draw = random.Random(7)
    texts = ["".join(draw.choices("01289  ..,,//eE+-−$€abx()]\n٣%_", k=draw.randrange(24))) for _ in range(20_000)]
    for text in [*texts, "7 or 1/0", "7 x 1/0.", "3 apples, 4 / 2"]:
        numbers = numbers_in(text)
        found = verifiers.get("numeric")().verify(text, 1).info["found"]
        assert found == (str(numbers[-1])[:100] if numbers else None), text


def test_numeric_tolerance_is_absolute_or_a_share_of_the_answer() -> None:
    assert is_right("numeric", "3.1415927", 3.14159265)
    assert not is_right("numeric", "3.14", 3.14159265)
    assert is_right("numeric", "3.14", 3.14159265, relative_tolerance=0.01)
    assert is_right("numeric", "12345678901234567890", "12345678901234567890", absolute_tolerance=0)
    assert not is_right("numeric", "12345678901234567891", "12345678901234567890", absolute_tolerance=0)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("numeric", "many"),
        ("numeric", "between 3 and 4"),
        ("numeric", {"value": 3}),
        ("exact_match", {"text": "x"}),
        ("exact_match", []),
        ("contains", "  "),
        ("regex_match", "(unclosed"),
        ("json_schema", {"type": "no-such-type"}),
        ("json_schema", "text"),
        ("tool_calls_match", "call me"),
        ("tool_calls_match", [{"name": "f", "arguments": "no json"}]),
    ],
)
def test_an_answer_that_nothing_can_be_compared_with_is_an_error_never_a_wrong_reply(kind: str, answer: Any) -> None:
    verifier: Verifier = verifiers.get(kind)()
    with pytest.raises(VerifierError):
        verifier.check_answer(answer)
    with pytest.raises(VerifierError):
        verifier.verify("anything", answer)


def test_an_answer_that_is_no_mathematics_is_an_error(algebra: Verifier) -> None:
    with pytest.raises(VerifierError, match="math-verify"):
        algebra.verify("8", "$$$")


def test_tasks_that_do_not_fit_are_named_before_anything_is_sampled() -> None:
    tasks = [Task("a", [], 5), Task("b", []), Task("c", [], "five")]
    found = check_tasks(tasks, verifiers.get("numeric")())
    assert [(misfit.position, misfit.task_id) for misfit in found] == [(2, "b"), (3, "c")]
    assert "there is none" in found[0].message
    assert "'five' holds no number" in found[1].message
    assert check_tasks(tasks, verifiers.get("format_only")()) == []


def test_tool_calls_are_compared_by_name_and_arguments_in_any_order() -> None:
    wanted = [{"name": "add", "arguments": {"a": 1, "b": 2}}, {"name": "stop", "arguments": {}}]
    made = [
        {"type": "function", "function": {"name": "stop", "arguments": "{}"}},
        {"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": 1}}},
    ]
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": made}]

    def verdict(expected: Any, **params: Any) -> Verdict:
        found = verifiers.get("tool_calls_match")(**params).verify("", expected, messages=messages)
        assert isinstance(found, Verdict)
        return found

    assert verdict(wanted).is_correct
    assert not verdict(wanted, ordered=True).is_correct
    half = verdict([wanted[0]])
    assert not half.is_correct
    assert half.signals == {"share_matched": 0.5}
    assert not verdict([{"name": "add", "arguments": {"a": 1}}, wanted[1]]).is_correct
    assert verdict([{"name": "add", "arguments": {"a": 1}}, wanted[1]], arguments="include").is_correct
    assert verdict([{"name": "add", "arguments": {"z": 0}}, wanted[1]], arguments="ignore").is_correct


def test_tool_calls_are_found_in_the_text_too_and_broken_ones_are_wrong() -> None:
    wanted = {"name": "add", "arguments": {"a": 1}}
    assert is_right("tool_calls_match", 'Yes.<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', wanted)
    assert not is_right("tool_calls_match", "<tool_call>{broken</tool_call>", wanted)
    assert not is_right("tool_calls_match", "no call", wanted)
    assert is_right("tool_calls_match", "no call", [])


def test_an_expression_that_never_ends_is_stopped_and_is_an_error() -> None:
    began = time.perf_counter()
    with pytest.raises(VerifierError, match="longer than 0.2 seconds"):
        verify("regex_match", "a" * 40 + "!", None, pattern=r"(a|a|b)+(a|a)+$", timeout_seconds=0.2)
    assert time.perf_counter() - began < 30


def test_algebra_that_never_ends_is_stopped_in_any_thread_and_the_next_comparison_works(algebra: Verifier) -> None:
    assert algebra.verify("$4$", "4").is_correct  # sympy is loaded before the clock is short
    algebra._compare.timeout_seconds = 0.5  # type: ignore[attr-defined]
    outcomes: list[Any] = []

    def compare() -> None:
        try:
            outcomes.append(algebra.verify("$2^{10000000000}$", "3"))
        except VerifierError as error:
            outcomes.append(str(error))

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert outcomes == ["The comparison took longer than 0.5 seconds, or too much memory."]
    algebra._compare.timeout_seconds = 60  # type: ignore[attr-defined]
    assert algebra.verify("$4$", "4").is_correct


@pytest.mark.parametrize(
    ("kind", "params", "place"),
    [
        ("regex_match", {"pattern": "("}, "verifier.params.pattern"),
        ("json_schema", {"reply_schema": {"type": 5}}, "verifier.params.reply_schema"),
        ("numeric", {"absolute_tolerance": -1}, "verifier.params.absolute_tolerance"),
        ("llm_judge", {"base_url": "file:///etc/passwd", "model": "m"}, "verifier.params.base_url"),
        ("no_such", {}, "no_such"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place(kind: str, params: dict[str, Any], place: str) -> None:
    values = {"model": {}, "data": {"path": "x"}, "verifier": {"kind": kind, "params": params}}
    with pytest.raises(ConfigError, match=place):
        EvalConfig.from_values(values)
