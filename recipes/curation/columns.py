"""The attempts of one eval run as columns: what a preview reads instead of their conversations."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.curation.conversations import Conversation, read_conversation
from recipes.curation.filters import finite

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A attempts of one eval run at M tasks, in the order given.

    task: (A,) index into task_ids and benchmarks. number: (A,) the attempt's number. ids: (A,) whatever the caller finds it by.
    has_verdict, is_correct: (A,) flags. reward, and each of signals: (A,), NaN where there is none. num_tokens: (A,), 0 where
    unknown. num_characters, digest, prompt: (A,), see `Conversation`. unusable: (A,) index into reasons, the first one "".
    """

    run: str
    task_ids: list[str]
    benchmarks: list[str]
    task: Integers
    number: Integers
    ids: Integers
    has_verdict: Flags
    is_correct: Flags
    reward: Floats
    signals: dict[str, Floats]
    num_tokens: Integers
    num_characters: Integers
    digest: Integers
    prompt: Integers
    unusable: Integers
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.task)


class ColumnsBuilder:
    """Takes the attempts of one eval run, one at a time, and keeps about 70 bytes of each."""

    def __init__(self, run: str = "") -> None:
        self.run = run
        self._tasks: dict[tuple[str, str], int] = {}
        self._reasons = {"": 0}
        self._columns = {name: array("q") for name in _INTEGERS} | {name: array("b") for name in _FLAGS}
        self._reward = array("d")
        self._signals: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self._reward)

    def add(
        self,
        *,
        benchmark: str,
        task_id: str,
        attempt: int,
        is_correct: bool | None,
        reward: float | None,
        signals: Mapping[str, Any],
        error: str | None = None,
        num_tokens: int = 0,
        conversation: Conversation,
        id: int | None = None,
    ) -> None:
        """One attempt; id None is its place in the order. conversation: by `read_conversation`."""
        at = len(self)
        judged = is_correct is not None and not error
        values = {
            "task": self._tasks.setdefault((benchmark, task_id), len(self._tasks)),
            "number": attempt,
            "ids": at if id is None else id,
            "num_tokens": num_tokens,
            "num_characters": conversation.num_characters,
            "digest": conversation.digest,
            "prompt": conversation.prompt,
            "unusable": self._reasons.setdefault(conversation.unusable, len(self._reasons)),
            "has_verdict": int(judged),
            "is_correct": int(judged and bool(is_correct)),
        }
        for name, column in self._columns.items():
            column.append(values[name])
        self._reward.append(finite(float(bool(is_correct)) if reward is None and judged else reward))
        for name, value in signals.items():
            if name not in self._signals:
                self._signals[name] = array("d", [np.nan]) * at
            self._signals[name].append(finite(value))
        for signal in self._signals.values():
            if len(signal) == at:
                signal.append(np.nan)

    def build(self) -> Columns:
        columns: dict[str, Any] = {
            name: np.array(column, np.bool_ if name in _FLAGS else np.int64) for name, column in self._columns.items()
        }
        return Columns(
            run=self.run,
            task_ids=[task_id for _, task_id in self._tasks],
            benchmarks=[benchmark for benchmark, _ in self._tasks],
            reward=np.array(self._reward, np.float64),
            signals={name: np.array(column, np.float64) for name, column in self._signals.items()},
            reasons=list(self._reasons),
            **columns,
        )


_INTEGERS = ("task", "number", "ids", "num_tokens", "num_characters", "digest", "prompt", "unusable")
_FLAGS = ("has_verdict", "is_correct")


def columns_of(attempts: Iterable[Any], run: str = "") -> list[Columns]:
    """The columns of each run that the attempts name (`run`, `benchmark`; "" where they have none), in the order first seen.
    ids are places in the order given. Attempts are as `recipes.rollouts.AttemptResult`."""
    builders: dict[str, ColumnsBuilder] = {}
    for place, attempt in enumerate(attempts):
        name = str(getattr(attempt, "run", run))
        builder = builders.setdefault(name, ColumnsBuilder(name))
        builder.add(
            benchmark=str(getattr(attempt, "benchmark", "")),
            task_id=attempt.task_id,
            attempt=attempt.attempt,
            is_correct=attempt.is_correct,
            reward=attempt.reward,
            signals=attempt.signals,
            error=getattr(attempt, "error", None),
            num_tokens=getattr(attempt, "num_tokens", 0),
            conversation=read_conversation(attempt.messages),
            id=place,
        )
    return [builder.build() for builder in builders.values()]
