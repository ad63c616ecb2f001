"""From attempts in memory to rows: what `recipes.curate` does. For more than fits, make a Pool and stream what `select` names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from recipes.curation.columns import columns_of
from recipes.curation.conversations import conversation_row, pair_row
from recipes.curation.pool import Pool
from recipes.curation.selection import NO_SIDE, Selection, select
from recipes.curation.settings import CurationSettings
from recipes.rollouts import AttemptResult
from recipes.types import Row


@dataclass(slots=True)
class PooledAttempt(AttemptResult):
    """An attempt with where it stems from. run: the eval run, by a name of its own. benchmark: task ids are told apart by it."""

    run: str = ""
    benchmark: str = ""


@dataclass(frozen=True, slots=True)
class SkippedAttempt:
    """A candidate of which no row could be made. It took no slot."""

    run: str
    benchmark: str
    task_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Curated:
    """rows: {"messages", "metadata"} in order, training and validation mixed as their tasks come; metadata says run and benchmark
    (if any), task_id, attempt, score and reward. Of pairs {"prompt", "chosen", "rejected", "metadata"}: attempt, score and reward
    are the chosen one's, rejected_run, rejected_attempt and rejected_score the other's. counts: the numbers of the Preview.
    train_task_ids, validation_task_ids: of the tasks that gave rows, in order. tasks_without_attempts: none of theirs counts."""

    rows: list[Row]
    counts: dict[str, int]
    skipped: list[SkippedAttempt]
    train_task_ids: list[str]
    validation_task_ids: list[str]
    tasks_without_attempts: list[str]
    pool: Pool
    selection: Selection

    @property
    def train_rows(self) -> list[Row]:
        return [row for row, held_out in zip(self.rows, self.selection.is_validation, strict=True) if not held_out]

    @property
    def validation_rows(self) -> list[Row]:
        return [row for row, held_out in zip(self.rows, self.selection.is_validation, strict=True) if held_out]


def curate(attempts: Iterable[Any], settings: CurationSettings | None = None) -> Curated:
    """Filter tasks, select attempts, hold tasks out. attempts: as AttemptResult, of one eval run or, with `run` (and `benchmark`)
    on each, of several: see PooledAttempt.

    Raises ConfigError when the holdout leaves a side empty, DataError for a metric that no attempt has and for two different
    attempts under one number.

    >>> said = lambda text: [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": text}]
    >>> attempts = [AttemptResult("sum", number, float(text == "2"), text == "2", messages=said(text))
    ...             for number, text in enumerate(["3", "2", "2", "4"])]
    >>> curated = curate(attempts, CurationSettings(filter="0 < avg < 1", dedup=True))
    >>> [(row["messages"][-1]["content"], row["metadata"]["attempt"]) for row in curated.rows]
    [('2', 1)]
    >>> curated.counts["num_kept"], curated.counts["num_duplicates"], curated.train_task_ids
    (1, 1, ['sum'])
    """
    settings = settings or CurationSettings()
    given = list(attempts)
    pool = Pool.of(columns_of(given))
    selection = select(pool, settings)
    sides = {True: dict[int, None](), False: dict[int, None]()}
    for index, held_out in zip(selection.attempts.tolist(), selection.is_validation.tolist(), strict=True):
        sides[held_out][int(pool.task[index])] = None
    return Curated(
        rows=list(_rows(given, pool, selection)),
        counts=selection.preview.counts(),
        skipped=list(skipped_attempts(pool, selection)),
        train_task_ids=[pool.tasks[task].task_id for task in sides[False]],
        validation_task_ids=[pool.tasks[task].task_id for task in sides[True]],
        tasks_without_attempts=[pool.tasks[task].task_id for task in selection.without_attempts.nonzero()[0].tolist()],
        pool=pool,
        selection=selection,
    )


def _rows(given: list[Any], pool: Pool, selection: Selection) -> Iterator[Row]:
    for place, index in enumerate(selection.attempts.tolist()):
        other = None if selection.rejected is None else given[int(pool.ids[int(selection.rejected[place])])].messages
        yield row_of(given[int(pool.ids[index])].messages, pool, selection, place, rejected=other)


def row_of(messages: Any, pool: Pool, selection: Selection, place: int, *, rejected: Any = None) -> Row:
    """Row number `place` of the selection (from 0), from the conversation of that attempt; of a pair, and of the rejected one."""
    index = int(selection.attempts[place])
    benchmark, task_id = pool.tasks[int(pool.task[index])]
    run = pool.runs[int(pool.run[index])]
    reward = float(pool.reward[index])
    metadata: Row = {"run": run, "benchmark": benchmark, "task_id": task_id, "attempt": int(pool.number[index])}
    metadata |= {"score": float(selection.score[place]), "reward": reward if reward == reward else None}
    if selection.rejected is not None and selection.rejected_score is not None:
        other = int(selection.rejected[place])
        metadata |= {"rejected_run": pool.runs[int(pool.run[other])], "rejected_attempt": int(pool.number[other])}
        metadata["rejected_score"] = float(selection.rejected_score[place])
    row = conversation_row(messages) if selection.rejected is None else pair_row(messages, rejected)
    return row | {"metadata": {name: value for name, value in metadata.items() if value not in ("", None)}}


def skipped_attempts(pool: Pool, selection: Selection) -> Iterator[SkippedAttempt]:
    """Each with its reason, in the order of the pool."""
    for index in selection.skipped.tolist():
        yield SkippedAttempt(
            pool.runs[int(pool.run[index])],
            *pool.tasks[int(pool.task[index])],
            int(pool.number[index]),
            pool.reasons[int(pool.unusable[index])] or NO_SIDE,
        )
