"""Completion → reward. Named, pure, and strict about the difference between a wrong answer and one that cannot be judged."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from recipes.types import Metrics

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """reward: usually in [0, 1]. info: what a person sees beside the verdict, as JSON. signals: further numbers, by name."""

    reward: float
    is_correct: bool
    info: dict[str, Any] = field(default_factory=dict)
    signals: Metrics = field(default_factory=dict)


class Verifier(Protocol):
    """Built with its Config's fields as keyword arguments. Raises VerifierError for a completion that it cannot judge.

    needs_answer: a task without an answer cannot be verified. is_slow: `verify` runs in a thread, beside the sampling.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    needs_answer: ClassVar[bool]
    is_slow: ClassVar[bool]

    def check_answer(self, answer: Any) -> None:
        """Raises VerifierError when no completion could be compared with this answer."""
        ...

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict | Awaitable[Verdict]:
        """messages: the whole conversation, the reply last."""
        ...
