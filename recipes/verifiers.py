"""Completion → reward. Named, pure, and strict about the difference between a wrong answer and one that cannot be judged.

A completion without what is looked for (no number, no JSON) is wrong. An answer of the task that cannot be compared with, a rule
that takes too long or a judge that gives no verdict is a VerifierError: an error of that attempt.
Where the task's answer is a list, any of its items will do (but see tool_calls_match and json_schema).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Context, Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, BaseModel

from recipes.config import Settings, knob
from recipes.errors import VerifierError
from recipes.isolation import Isolated, IsolationTimeout
from recipes.types import Metrics, Task

Message = Mapping[str, Any]
_TEXT_OR_NUMBER = (str, int, float)


@dataclass(slots=True)
class Verdict:
    """reward: usually in [0, 1]. info: what a person sees beside the verdict, as JSON. signals: further numbers, by name."""

    reward: float
    is_correct: bool
    info: dict[str, Any] = field(default_factory=dict)
    signals: Metrics = field(default_factory=dict)

    @classmethod
    def of(cls, is_correct: bool, **info: Any) -> Verdict:
        """Reward 1 or 0."""
        return cls(float(is_correct), is_correct, info)


class Verifier:
    """Base of all: built with its Config's fields as keyword arguments, `self.cfg` is the Config.

    needs_answer: a task without an answer cannot be verified. is_slow: `verify` is called in a thread, beside the sampling.
    is_pure: it says the same of the same reply to a task, so that attempts which say the same are judged once. Not inherited by
    a class with a `verify` of its own.
    asks_service: it asks a server about each reply, under keys and addresses that `open` is given.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[BaseModel]] = Settings
    needs_answer: bool = True
    is_slow: ClassVar[bool] = False
    is_pure: ClassVar[bool] = False
    asks_service: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "verify" in cls.__dict__ and "is_pure" not in cls.__dict__:
            cls.is_pure = False

    def __init__(self, **params: Any) -> None:
        self.cfg: Any = self.Config(**params)

    def open(self, secrets: Mapping[str, str], allows_address: Callable[[str], bool] | None = None) -> None:
        """Called once before the first `verify`: keys for a service that the verifier asks, and which addresses it may ask."""

    def check_answer(self, answer: Any) -> None:
        """Raises VerifierError when no completion could be compared with this answer."""
        accepted_texts(answer)

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict | Awaitable[Verdict]:
        """The verdict on a completion; `messages` is the whole conversation, the reply last. Raises VerifierError."""
        raise VerifierError(f"The verifier {type(self).__name__} does not say how it verifies: it needs a method verify.")

    async def close(self) -> None:
        """Give back what was opened. The next `verify` opens it again."""

    @property
    def waits(self) -> bool:
        """Whether other work goes on while it judges a reply: it runs in a thread, or is awaited."""
        return self.is_slow or self.asks_service or inspect.iscoroutinefunction(self.verify)


class Misfit(NamedTuple):
    """A task that the verifier cannot judge. position: from 1."""

    position: int
    task_id: str
    message: str


def check_tasks(tasks: Iterable[Task], verifier: Verifier) -> list[Misfit]:
    """The tasks that cannot be verified, in order, with the reason. Empty when all fit. Cheap: nothing is sampled or asked."""
    misfits = []
    for position, task in enumerate(tasks, start=1):
        if not verifier.needs_answer:
            break
        try:
            if task.answer is None:
                raise VerifierError(f"{verifier.name} compares with the task's answer, and there is none")
            verifier.check_answer(task.answer)
        except VerifierError as error:
            misfits.append(Misfit(position, task.task_id, str(error)))
    return misfits


def accepted_texts(answer: Any) -> list[str]:
    """The answer, or each of several accepted ones, as text. Raises VerifierError for what is neither text nor number."""
    if isinstance(answer, _TEXT_OR_NUMBER):
        return [str(answer)]
    accepted = answer if isinstance(answer, list) else [answer]
    if not accepted:
        raise VerifierError("the list of accepted answers is empty")
    for item in accepted:
        if not isinstance(item, _TEXT_OR_NUMBER):
            raise VerifierError(f"the answer is {shown(item)}, not a text or a number")
    return [str(item) for item in accepted]


class ExactMatch(Verifier):
    class Config(Settings):
        ignore_case: bool = knob(True, "Capital and small letters are the same.", essential=True)
        ignore_punctuation: bool = knob(False, "Leave out punctuation at both ends.", essential=True)

    name = "exact_match"
    summary = "The whole reply is the answer, spaces aside."
    is_pure = True

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        found = self._plain(completion)
        return Verdict.of(any(found == self._plain(text) for text in accepted_texts(expected)), found=completion.strip()[:500])

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        if self.cfg.ignore_punctuation:
            text = text.strip(" .,;:!?\"'`()[]*")
        return text.casefold() if self.cfg.ignore_case else text


class Contains(Verifier):
    class Config(Settings):
        ignore_case: bool = knob(True, "Capital and small letters are the same.", essential=True)
        whole_words: bool = knob(True, "The answer stands alone: 12 is not found in 123.", essential=True)

    name = "contains"
    summary = "The reply contains the answer."
    is_pure = True

    def check_answer(self, answer: Any) -> None:
        if any(not text.strip() for text in accepted_texts(answer)):
            raise VerifierError("the answer is blank: every reply contains it")

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        self.check_answer(expected)
        flags = re.IGNORECASE if self.cfg.ignore_case else 0
        for text in accepted_texts(expected):
            pattern = re.escape(text.strip())
            if self.cfg.whole_words:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            if re.search(pattern, completion, flags):
                return Verdict.of(True, found=text)
        return Verdict.of(False)


def expression(pattern: str, *, ignore_case: bool = False) -> Any:
    """The compiled expression: as the standard library's, but its search can be stopped. Raises ValueError."""
    import regex

    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{shown(pattern)} is no regular expression ({error})") from None


def _is_expression(pattern: str | None) -> str | None:
    if pattern is not None:
        expression(pattern)
    return pattern


class RegexMatch(Verifier):
    class Config(Settings):
        pattern: Annotated[str | None, AfterValidator(_is_expression)] = knob(
            None,
            "A regular expression. With a group, the last match's group is compared with the answer; without one, a match is "
            "enough. Empty takes each task's answer as the expression.",
            max_length=5000,
            essential=True,
        )
        ignore_case: bool = knob(False, "Capital and small letters are the same.")
        timeout_seconds: float = knob(2.0, "An expression that searches longer is an error.", unit="seconds", gt=0, le=60)

    name = "regex_match"
    summary = "A regular expression finds the answer in the reply."
    is_pure = True

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.has_group = self.cfg.pattern is not None and expression(self.cfg.pattern).groups > 0
        self.needs_answer = self.cfg.pattern is None or self.has_group

    def check_answer(self, answer: Any) -> None:
        for text in accepted_texts(answer):
            if self.cfg.pattern is None:
                self._expression(text)

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        if self.has_group:
            matches = self._matches(self.cfg.pattern, completion)
            found = next((group for group in matches[-1].groups() if group is not None), "").strip() if matches else None
            return Verdict.of(found is not None and any(found == text.strip() for text in accepted_texts(expected)), found=found)
        for pattern in [self.cfg.pattern] if self.cfg.pattern is not None else accepted_texts(expected):
            if matches := self._matches(pattern, completion):
                return Verdict.of(True, found=matches[-1].group()[:500])
        return Verdict.of(False)

    def _matches(self, pattern: str, text: str) -> list[Any]:
        with _stopped(pattern, self.cfg.timeout_seconds):
            return list(self._expression(pattern).finditer(text, timeout=self.cfg.timeout_seconds))

    def _expression(self, pattern: str) -> Any:
        try:
            return expression(pattern, ignore_case=self.cfg.ignore_case)
        except ValueError as error:
            raise VerifierError(str(error)) from None


@contextmanager
def _stopped(pattern: str, seconds: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise VerifierError(f"The expression {shown(pattern)} searched longer than {seconds:g} seconds.") from None


class Pick(StrEnum):
    LAST = "last"
    FIRST = "first"


_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]])[-−])?[$€£]?(?<!\w)(?P<size>(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4})?)"
    r"(?:\s?/\s?(?P<below>\d+(?:\.\d+)?))?"
)
_UP_TO_LAST_DIGIT = re.compile(r"(?s:.*)\d")
_UP_TO_LAST_OTHER = re.compile(r"(?s:.*)[^\d\s.,/eE+\-−$€£]")
"""The longest beginning that ends in a character which stands in no number."""
_EXACT = Context(prec=60, traps=[])


class Numeric(Verifier):
    class Config(Settings):
        absolute_tolerance: float = knob(1e-6, "Largest difference that still counts as the same.", ge=0, le=1e12, essential=True)
        relative_tolerance: float = knob(0.0, "The same, as a share of the answer; the larger of the two counts.", ge=0, le=1)
        pick: Pick = knob(Pick.LAST, "Which number of the reply is compared.", essential=True)
        marker: str | None = knob(None, "Only look behind the last place where this text stands, e.g. ####.", max_length=100)

    name = "numeric"
    summary = "A number in the reply is the answer, within a tolerance."
    is_pure = True

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._absolute = Decimal(self.cfg.absolute_tolerance)
        self._relative = Decimal(self.cfg.relative_tolerance)

    def check_answer(self, answer: Any) -> None:
        for text in accepted_texts(answer):
            _number(text)

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        wanted = [_number(text) for text in accepted_texts(expected)]
        text = completion
        if self.cfg.marker:
            _, marker, text = completion.rpartition(self.cfg.marker)
            if not marker:
                return Verdict.of(False, found=None)
        chosen = _last_number(text) if self.cfg.pick is Pick.LAST else next(_finite(_NUMBER.finditer(text)), None)
        if chosen is None:
            return Verdict.of(False, found=None)
        is_correct = chosen in wanted or any(self._same(chosen, value) for value in wanted)
        return Verdict.of(is_correct, found=str(chosen)[:100])

    def _same(self, found: Decimal, wanted: Decimal) -> bool:
        difference = _EXACT.abs(_EXACT.subtract(found, wanted))
        allowed = self._absolute
        if self._relative:
            allowed = max(allowed, _EXACT.multiply(self._relative, _EXACT.abs(wanted)))
        return difference.is_finite() and difference <= allowed


def numbers_in(text: str) -> list[Decimal]:
    """Every number in reading order: signs, thousands commas, decimals, exponents and fractions are understood."""
    return list(_finite(_NUMBER.finditer(text)))


def _last_number(text: str) -> Decimal | None:
    """The last of `numbers_in`, mostly without looking at the others."""
    digit = _UP_TO_LAST_DIGIT.match(text)
    if digit is None:
        return None
    other = _UP_TO_LAST_OTHER.match(text, 0, digit.end())
    start = 0 if other is None else other.end()  # no number reaches across: those behind are the same as in the whole text
    rest = text[start : digit.end()]
    if (start == 0 or rest[0].isspace()) and (plain := rest.strip()).isascii() and plain.isdecimal():
        return Decimal(plain)
    last = next(_finite(reversed(list(_NUMBER.finditer(text, start)))), None)
    return last if last is not None or start == 0 else next(_finite(reversed(list(_NUMBER.finditer(text)))), None)


def _finite(matches: Iterable[re.Match[str]]) -> Iterator[Decimal]:
    for match in matches:
        sign, size, below = match.groups()
        value = Decimal(size.replace(",", ""))
        if below:
            value = _EXACT.divide(value, Decimal(below))
        if value.is_finite():
            yield value.copy_negate() if sign else value


@lru_cache(maxsize=4096)
def _number(answer: str) -> Decimal:
    found = numbers_in(answer)
    if len(found) != 1:
        raise VerifierError(f"the answer {shown(answer)} holds {'no number' if not found else f'{len(found)} numbers'}, not one")
    return found[0]


class Math(Verifier):
    class Config(Settings):
        strict: bool = knob(True, "Names of variables matter, and a set is no tuple.")
        float_rounding: int = knob(6, "Decimal places that must agree.", ge=0, le=30)
        timeout_seconds: float = knob(5.0, "A comparison that takes longer is an error.", unit="seconds", gt=0, le=300)

    name = "math"
    summary = "The reply's final expression equals the answer, by algebra (math-verify): 1/2, 0.5 and \\frac{1}{2} are the same."
    is_pure = True
    is_slow = True

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        # math-verify's own time limits are signals, which only the main thread may set; here a process of its own is ended.
        self._compare = Isolated("recipes.verifiers:compare_math", timeout_seconds=self.cfg.timeout_seconds)

    def check_answer(self, answer: Any) -> None:
        if any(not text.strip() for text in accepted_texts(answer)):
            raise VerifierError("the answer is blank")

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        for text in accepted_texts(expected):
            found = call_isolated(self._compare, completion, text, self.cfg.strict, self.cfg.float_rounding)
            if found["is_correct"]:
                break
        return Verdict.of(found["is_correct"], found=found["found"])

    async def close(self) -> None:
        self._compare.close()


def compare_math(completion: str, answer: str, strict: bool, float_rounding: int) -> dict[str, Any]:
    """In the isolated process. Raises ValueError when the answer is no expression."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.WARNING)
    gold = parse(answer, parsing_timeout=None) or parse(f"${answer}$", parsing_timeout=None)
    if not gold:
        raise ValueError(f"the answer {shown(answer)} is no expression that math-verify can read")
    found = parse(completion, parsing_timeout=None)
    is_correct = bool(found) and verify(
        gold, found, float_rounding=float_rounding, strict=strict, timeout_seconds=None, raise_on_error=False
    )
    return {"is_correct": bool(is_correct), "found": str(found[-1])[:500] if found else None}


class FormatOnly(Verifier):
    class Config(Settings):
        pattern: Annotated[str, AfterValidator(_is_expression)] = knob(
            r"(?s).*\S.*",
            "A regular expression that the whole reply must match; by default any text.",
            max_length=5000,
            essential=True,
        )
        max_characters: int | None = knob(None, "Longest reply; empty is no limit.", unit="characters", ge=1, le=10_000_000)
        timeout_seconds: float = knob(2.0, "An expression that searches longer is an error.", unit="seconds", gt=0, le=60)

    name = "format_only"
    summary = "The reply has the right form, whatever it says. Needs no answers."
    is_pure = True
    needs_answer = False

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        with _stopped(self.cfg.pattern, self.cfg.timeout_seconds):
            fits = expression(self.cfg.pattern).fullmatch(completion, timeout=self.cfg.timeout_seconds) is not None
        is_short = self.cfg.max_characters is None or len(completion) <= self.cfg.max_characters
        return Verdict.of(fits and is_short, num_characters=len(completion))


def call_isolated(call: Isolated, *arguments: Any) -> Any:
    """Raises VerifierError when it takes too long or refuses."""
    try:
        return call(*arguments)
    except IsolationTimeout as error:
        raise VerifierError(f"The comparison {error}.") from None
    except ValueError as error:
        raise VerifierError(str(error)) from None


def shown(value: Any) -> str:
    """A value in a sentence, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
