"""Every way a recipe can refuse or fail, by cause. One root, so that a caller can catch exactly what was foreseen."""

from __future__ import annotations

from typing import Any


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
    """The training service refused or failed. `permanent` means: the same call will fail again."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


class VerifierError(RecipeError):
    """A verifier could not judge an attempt. It is an error of that attempt, never a wrong answer."""
