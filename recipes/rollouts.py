"""Sample k attempts of tasks and verify them: the one function behind evals and reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recipes.types import Metrics, Turn


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """One attempt at a task. Either `error` is None and there is a verdict, or it is a sentence and reward and is_correct are None:
    an attempt that could not be sampled or judged is never a wrong answer.

    attempt: from 0. messages: the whole conversation, the reply last (without it when sampling failed). error_kind: an ErrorKind.
    turns: token ids and log-probabilities, where the sampler gives them; not stored by evals.
    """

    task_id: str
    attempt: int
    reward: float | None = None
    is_correct: bool | None = None
    signals: Metrics = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    stop_reason: str | None = None
    error: str | None = None
    error_kind: str | None = None
    turns: tuple[Turn, ...] = ()
