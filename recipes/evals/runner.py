"""From an EvalConfig to a finished eval: opens what is sampled from, runs what is missing, keeps what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EvalResult:
    """How an eval ended. num_attempts: tasks × k. num_done: attempts with a verdict, those left out as `done` included.
    num_errors: attempts of this call that ended in an error; they may be tried again. error: why it failed, as a sentence."""

    status: Literal["completed", "failed", "cancelled"]
    num_tasks: int
    num_attempts: int
    num_done: int
    num_errors: int
    error: str | None = None
