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
