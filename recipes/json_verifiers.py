"""The verifiers that read JSON out of a reply: against a schema, and as tool calls."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator

from recipes.config import Settings, knob
from recipes.errors import VerifierError
from recipes.isolation import Isolated
from recipes.verifiers import Message, Verdict, Verifier, call_isolated, shown


def _is_schema(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    if schema is not None:
        try:
            validator_for(schema).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"this is no JSON Schema: {error.message}") from None
    return schema


class JsonSchema(Verifier):
    class Config(Settings):
        reply_schema: Annotated[dict[str, Any] | None, AfterValidator(_is_schema)] = knob(
            None, "The JSON Schema that a reply must fit; empty takes each task's answer as the schema.", essential=True
        )
        find: bool = knob(True, "Take the JSON out of the text around it; off wants nothing but JSON.", essential=True)
        timeout_seconds: float = knob(5.0, "A check that takes longer is an error.", unit="seconds", gt=0, le=300)

    name = "json_schema"
    summary = "The reply is JSON that fits a schema."
    is_pure = True
    is_slow = True

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.needs_answer = self.cfg.reply_schema is None
        self._check = Isolated("recipes.json_verifiers:check_against_schema", timeout_seconds=self.cfg.timeout_seconds)

    def check_answer(self, answer: Any) -> None:
        if not isinstance(answer, dict):
            raise VerifierError(f"the schema is {shown(answer)}, not an object")
        try:
            _is_schema(answer)
        except ValueError as error:
            raise VerifierError(str(error)) from None

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        schema = self.cfg.reply_schema
        if schema is None:
            self.check_answer(expected)
            schema = expected
        value = find_json(completion) if self.cfg.find else _json_or_none(completion)
        if value is None:
            return Verdict.of(False, errors=["The reply holds no JSON."])
        errors = call_isolated(self._check, value[0], schema)
        return Verdict.of(not errors, errors=errors)

    async def close(self) -> None:
        self._check.close()


def check_against_schema(value: Any, schema: Any) -> list[str]:
    """In the isolated process: the first few mistakes, each with its place. References to other documents are not followed."""
    from jsonschema.validators import validator_for
    from referencing import Registry

    validator = validator_for(schema)(schema, registry=Registry())
    return [
        f"{error.json_path}: {error.message}"[:500] for error, _ in zip(validator.iter_errors(value), range(10), strict=False)
    ]


def find_json(text: str) -> tuple[Any] | None:
    """The JSON in a reply: all of it, the last fenced block, or the first object or list in the text; in a tuple of one."""
    fenced = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    for candidate in [text, *reversed(fenced)]:
        if (found := _json_or_none(candidate)) is not None:
            return found
    decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
    for number, opening in enumerate(re.finditer(r"[{\[]", text)):
        if number >= 100:
            break
        try:
            return (decoder.raw_decode(text, opening.start())[0],)
        except (ValueError, RecursionError):
            continue
    return None


def _json_or_none(text: str) -> tuple[Any] | None:
    try:
        return (json.loads(text, parse_constant=_refuse_constant, parse_float=_finite),)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits} is too large a number")
    return value


class ArgumentRule(StrEnum):
    """EQUAL: the same arguments. INCLUDE: at least those of the answer. IGNORE: names only."""

    EQUAL = "equal"
    INCLUDE = "include"
    IGNORE = "ignore"


class ToolCallsMatch(Verifier):
    class Config(Settings):
        arguments: ArgumentRule = knob(ArgumentRule.EQUAL, "How arguments are compared.", essential=True)
        ordered: bool = knob(False, "The calls come in the order of the answer.")

    name = "tool_calls_match"
    summary = "The reply calls the tools that the answer names, with its arguments."
    is_pure = True

    def check_answer(self, answer: Any) -> None:
        _calls(answer, VerifierError)

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        wanted = _calls(expected, VerifierError)
        try:
            made = tool_calls_of(messages[-1] if messages else {}, completion)
        except ValueError as error:
            return Verdict.of(False, found=str(error))
        matched = self._num_matched(made, wanted)
        is_correct = matched == len(wanted) == len(made)
        share = matched / max(len(wanted), len(made), 1)
        return Verdict(float(is_correct), is_correct, {"found": made}, {"share_matched": share if wanted or made else 1.0})

    def _num_matched(self, made: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> int:
        if self.cfg.ordered:
            return sum(self._same(call, other) for call, other in zip(made, wanted, strict=False))
        left = list(made)
        for other in wanted:
            if (found := next((call for call in left if self._same(call, other)), None)) is not None:
                left.remove(found)
        return len(made) - len(left)

    def _same(self, made: dict[str, Any], wanted: dict[str, Any]) -> bool:
        if made["name"] != wanted["name"] or self.cfg.arguments is ArgumentRule.IGNORE:
            return bool(made["name"] == wanted["name"])
        if self.cfg.arguments is ArgumentRule.EQUAL:
            return bool(made["arguments"] == wanted["arguments"])
        return all(key in made["arguments"] and made["arguments"][key] == value for key, value in wanted["arguments"].items())


def tool_calls_of(message: Message, text: str) -> list[dict[str, Any]]:
    """The calls of a reply as [{"name", "arguments"}]: those its message names, else those in its text. Raises ValueError."""
    return _calls(message.get("tool_calls") or _calls_in_text(text), ValueError)


def _calls(value: Any, error: type[Exception]) -> list[dict[str, Any]]:
    """[{"name", "arguments": object}] from that or from OpenAI's nesting; one call may stand without its list."""
    calls = []
    for item in value if isinstance(value, list) else [value]:
        function = item.get("function", item) if isinstance(item, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise error(f"{shown(item)} is no tool call with a name and arguments")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            parsed = _json_or_none(arguments or "{}")
            arguments = parsed[0] if parsed else None
        if not isinstance(arguments, Mapping):
            raise error(f"the arguments of {name} are no JSON object")
        calls.append({"name": name, "arguments": dict(arguments)})
    return calls


def _calls_in_text(text: str) -> list[Any]:
    """Calls as many chat templates spell them: <tool_call>{"name": …, "arguments": …}</tool_call>."""
    bodies = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    return [parsed[0] if (parsed := _json_or_none(body)) else body for body in bodies]
