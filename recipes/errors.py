"""Every way a recipe can refuse or fail, by cause. One root, so that a caller can catch exactly what was foreseen."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class ErrorKind(StrEnum):
    """Why a call or an attempt failed, in a word that lists can be filtered by."""

    AUTH = "auth"
    RATE_LIMIT = "rate_limit"
    REQUEST = "request"
    SERVER = "server"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    BAD_ANSWER = "bad_answer"
    BACKEND = "backend"
    DATA = "data"
    VERIFIER = "verifier"


class RecipeError(Exception):
    """Something a user can act on. The message is a sentence: what was wrong, where, what to do."""


class ConfigError(RecipeError, ValueError):
    """A setting is missing, out of bounds, or contradicts another. `path` names it: ("algorithm", "params", "lora_rank")."""

    def __init__(self, message: str, *, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class DataError(RecipeError, ValueError):
    """Rows cannot be used. `line` counts from 1 in the file as the user sees it; `field` is a path such as "messages[2].role".
    `expected` says what would have been right; the message holds all of it as one sentence."""

    def __init__(
        self, message: str, *, line: int | None = None, field: str | None = None, found: Any = None, expected: str | None = None
    ) -> None:
        super().__init__(message)
        self.line = line
        self.field = field
        self.found = found
        self.expected = expected


class RenderingError(DataError):
    """A chat template refuses a conversation, or renders it so that trained tokens cannot be told from the rest."""


class CheckpointError(RecipeError):
    """A checkpoint is missing, unreadable, or belongs to another configuration (the message names the difference)."""


class BackendError(RecipeError):
    """The service that trains or samples refused or failed. `permanent` means: the same call will fail again."""

    def __init__(self, message: str, *, permanent: bool, kind: ErrorKind = ErrorKind.BACKEND) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.kind = kind


class VerifierError(RecipeError):
    """A verifier could not judge an attempt. It is an error of that attempt, never a wrong answer."""


class FilterError(RecipeError, ValueError):
    """A filter that is not understood. position: index into `text`, from 0, of what was `found`; len(text) is its end. `length`
    characters from there are meant, at least one. expected: what would have been right there."""

    def __init__(self, message: str, *, text: str, position: int, length: int = 1, found: str = "", expected: str = "") -> None:
        super().__init__(message)
        self.text = text
        self.position = position
        self.length = max(1, length)
        self.found = found
        self.expected = expected

    def caret(self, width: int = 76) -> str:
        """Two lines: the text around the position, and carets under what was found. No line is longer than `width`.

        >>> print(FilterError("", text="avg < foo", position=6, length=3).caret())
        avg < foo
              ^^^
        """
        start = self.text.rfind("\n", 0, self.position) + 1
        line = self.text[start:].split("\n", 1)[0]
        column = min(self.position - start, len(line))
        first = max(0, min(column - width // 2, len(line) + 1 - width))
        shown = "".join(
            letter if letter.isprintable() else " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}" for letter in line
        )
        carets = max(1, min(self.length, len(line) - column, width - (column - first)))
        return f"{shown[first : first + width]}\n{' ' * (column - first)}{'^' * carets}"
