"""What a curation is told: which tasks survive, which of their attempts become rows, what is held out."""

from __future__ import annotations

from enum import StrEnum

from pydantic import field_validator, model_validator

from recipes.config import Settings, knob
from recipes.curation.filters import compile_filter
from recipes.curation.tokens import MAX_LENGTH


class Select(StrEnum):
    """Which attempts of a task that survived become rows."""

    CORRECT = "correct"
    BEST = "best"
    BEST_N = "best-n"
    SHORTEST = "shortest"
    ALL = "all"


class Rows(StrEnum):
    """What becomes a row: a selected attempt as a chat, or a pair of them as a preference."""

    ATTEMPTS = "attempts"
    PAIRS = "pairs"


class CurationSettings(Settings):
    metric: str = knob(
        "is_correct",
        "What avg, best, worst and the order of attempts are made of: is_correct, reward, or the name of a signal.",
        min_length=1,
        max_length=200,
        essential=True,
    )
    filter: str = knob(
        "solved", "Which tasks survive, such as 0 < avg < 1 or pass@4 >= 0.5.", max_length=MAX_LENGTH, essential=True
    )
    select: Select = knob(
        Select.CORRECT,
        "Of a surviving task: every passing attempt, the best one, the best so many, the shortest passing first, or all.",
        essential=True,
    )
    max_per_task: int | None = knob(
        None,
        "At most so many attempts selected per task; empty is no limit.",
        unit="attempts",
        ge=1,
        le=100_000,
        essential=True,
    )
    rows: Rows = knob(
        Rows.ATTEMPTS,
        "Attempts selected as chats, for sft; or pairs for dpo: each of them against attempts of its task that do not pass.",
        essential=True,
    )
    max_pairs: int = knob(
        8,
        "At most so many pairs per task, of as many different replies as there are.",
        unit="pairs",
        ge=1,
        le=1000,
        essential=True,
    )
    min_reward: float | None = knob(
        None, "An attempt passes from this value of the metric on; empty means it passes when it is correct.", ge=-1e9, le=1e9
    )
    dedup: bool = knob(False, "Of conversations that are alike within one task, keep the first.", essential=True)
    include_errors: bool = knob(False, "Count attempts that ended in an error as wrong, with 0 for reward and metric.")
    val_fraction: float = knob(
        0.0, "Share of the tasks held out as the validation split; 0 holds none out.", ge=0, lt=1, essential=True
    )
    seed: int = knob(0, "Another seed holds out other tasks.", ge=0, le=2**31 - 1)

    @field_validator("filter")
    @classmethod
    def _filter_is_understood(cls, text: str) -> str:
        compile_filter(text)
        return text

    @model_validator(mode="after")
    def _parts_agree(self) -> CurationSettings:
        if self.select is Select.BEST_N and self.max_per_task is None:
            raise ValueError("select best-n needs max_per_task, the n")
        if self.select is Select.ALL and self.min_reward is not None:
            raise ValueError("select all takes every attempt, so that min_reward would do nothing; leave one of the two out")
        if self.rows is Rows.PAIRS and self.select is Select.ALL:
            raise ValueError("pairs need attempts that pass on one side: choose a select other than all")
        return self
