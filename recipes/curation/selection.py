"""Which attempts of the surviving tasks become rows, in which order, and what is said about the others.

Order: tasks as first seen; within a task the larger metric first, then the lower attempt number, then the earlier run. `shortest`
puts the shorter reply before all that: by tokens where every candidate of the task has them, else by characters. Candidates whose
conversation cannot be used take no slot; of alike conversations the first is kept; then max_per_task cuts. What is left are the
rows, or the chosen side of pairs (`pairs`), whose other side are attempts that do not pass, the smallest metric first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from recipes.curation.columns import Flags, Floats, Integers
from recipes.curation.filters import compile_filter
from recipes.curation.holdout import check_sides, places_of
from recipes.curation.pairs import contradicted, pair_up
from recipes.curation.pool import Pool, TaskColumns, places_in_task, values_of
from recipes.curation.settings import CurationSettings, Rows, Select
from recipes.errors import ConfigError

NUM_BINS = 20
NO_SIDE = "no prompt before a last reply, so that it can be no side of a pair"


@dataclass(frozen=True, slots=True)
class Bin:
    """Tasks whose avg lies between low and high; low == high for the bins of exactly the least and the most."""

    low: float
    high: float
    num_tasks: int
    num_kept: int


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """What settings would give. num_tasks = num_kept + num_dropped + num_without_attempts.

    num_kept_without_rows: kept tasks of which no attempt is selected. num_errors, num_without_metric: attempts outside n.
    num_tokens: of the selected replies, where known; num_rows_without_tokens have none. num_skipped: candidates whose
    conversation cannot be used, with how many for each reason; num_duplicates, num_over_cap: candidates left out by dedup and
    max_per_task, or pairs left out by max_pairs; num_contradicted: attempts whose reply was judged right once and wrong once,
    which no pair takes. holdout_error: why these settings cannot be published, "" when they can. kept: (M,) tasks that survive.
    """

    num_tasks: int
    num_kept: int
    num_dropped: int
    num_without_attempts: int
    num_kept_without_rows: int
    num_attempts: int
    num_errors: int
    num_without_metric: int
    num_repeated: int
    num_rows: int
    num_tokens: int
    num_rows_without_tokens: int
    num_skipped: int
    skipped: dict[str, int]
    num_duplicates: int
    num_over_cap: int
    num_contradicted: int
    num_train_tasks: int
    num_train_rows: int
    num_validation_tasks: int
    num_validation_rows: int
    holdout_error: str
    histogram: list[Bin]
    kept: Flags

    def counts(self) -> dict[str, int]:
        """The numbers by name, as JSON takes them."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name.startswith("num_")}


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The rows of a pool that settings select. attempts: (R,) indices into the pool, in the order of the rows; score: (R,) their
    metric; is_validation: (R,) which of them are held out. rejected, rejected_score: the same of the other side of each pair,
    None where rows are attempts. kept: (M,) tasks that survive; without_attempts: (M,) tasks of which no attempt counts;
    held_out: (M,) the side of each task. skipped: indices of candidates that cannot be used."""

    attempts: Integers
    score: Floats
    is_validation: Flags
    kept: Flags
    without_attempts: Flags
    held_out: Flags
    skipped: Integers
    preview: Preview
    rejected: Integers | None = None
    rejected_score: Floats | None = None

    def __len__(self) -> int:
        return len(self.attempts)

    def sides(self, place: int) -> tuple[int, ...]:
        """Of row number `place`: the index of its attempt, or of the chosen and the rejected one."""
        found = (self.attempts, *(() if self.rejected is None else (self.rejected,)))
        return tuple(int(side[place]) for side in found)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """What every task would give if it survived. rows: (R,) indices into the pool in the order of rows; skipped: likewise.
    rejected: (R,) the other side of each pair. num_…: (M,) per task."""

    rows: Integers
    rejected: Integers | None
    skipped: Integers
    num_rows: Integers
    num_tokens: Integers
    num_rows_without_tokens: Integers
    num_skipped: Integers
    num_duplicates: Integers
    num_over_cap: Integers
    num_contradicted: Integers


def preview(pool: Pool, settings: CurationSettings) -> Preview:
    """The numbers alone. After the first call with a pool, another filter costs a walk over its tasks.
    Raises DataError for a metric that no attempt has."""
    columns = pool.aggregates(settings.metric, include_errors=settings.include_errors)
    candidates = _candidates(pool, settings, columns)
    kept = _kept(columns, settings)
    held_out = _held_out(pool, settings)
    has_rows = kept & (candidates.num_rows > 0)
    num_kept, num_counted = int(kept.sum()), int((columns.n > 0).sum())
    train, validation = has_rows & ~held_out, has_rows & held_out
    num_train, num_validation = int(train.sum()), int(validation.sum())
    reasons = Counter(pool.unusable[candidates.skipped[kept[pool.task[candidates.skipped]]]].tolist())
    return Preview(
        num_tasks=pool.num_tasks,
        num_kept=num_kept,
        num_dropped=num_counted - num_kept,
        num_without_attempts=pool.num_tasks - num_counted,
        num_kept_without_rows=num_kept - int(has_rows.sum()),
        num_attempts=len(pool),
        num_errors=columns.num_errors,
        num_without_metric=columns.num_without_metric,
        num_repeated=pool.num_repeated,
        num_rows=int(candidates.num_rows[kept].sum()),
        num_tokens=int(candidates.num_tokens[kept].sum()),
        num_rows_without_tokens=int(candidates.num_rows_without_tokens[kept].sum()),
        num_skipped=int(candidates.num_skipped[kept].sum()),
        skipped={pool.reasons[reason] or NO_SIDE: number for reason, number in reasons.most_common()},
        num_duplicates=int(candidates.num_duplicates[kept].sum()),
        num_over_cap=int(candidates.num_over_cap[kept].sum()),
        num_contradicted=int(candidates.num_contradicted[kept].sum()),
        num_train_tasks=num_train,
        num_train_rows=int(candidates.num_rows[train].sum()),
        num_validation_tasks=num_validation,
        num_validation_rows=int(candidates.num_rows[validation].sum()),
        holdout_error=_holdout_error(num_train, num_validation, settings.val_fraction),
        histogram=_histogram(columns, kept),
        kept=kept,
    )


def select(pool: Pool, settings: CurationSettings) -> Selection:
    """The rows themselves. Raises ConfigError when the holdout leaves a side empty, DataError for a metric that no attempt
    has."""
    found = preview(pool, settings)
    check_sides(found.num_train_tasks, found.num_validation_tasks, settings.val_fraction)
    columns = pool.aggregates(settings.metric, include_errors=settings.include_errors)
    candidates = _candidates(pool, settings, columns)
    held_out = _held_out(pool, settings)
    survives = found.kept[pool.task[candidates.rows]]
    rows = candidates.rows[survives]
    rejected = None if candidates.rejected is None else candidates.rejected[survives]
    return Selection(
        attempts=rows,
        score=columns.value[rows],
        is_validation=held_out[pool.task[rows]],
        kept=found.kept,
        without_attempts=columns.n == 0,
        held_out=held_out,
        skipped=candidates.skipped[found.kept[pool.task[candidates.skipped]]],
        preview=found,
        rejected=rejected,
        rejected_score=None if rejected is None else columns.value[rejected],
    )


def _kept(columns: TaskColumns, settings: CurationSettings) -> Flags:
    holds = values_of(compile_filter(settings.filter).tree, columns) != 0
    kept: Flags = np.broadcast_to(holds, columns.n.shape) & (columns.n > 0)
    return kept


def _held_out(pool: Pool, settings: CurationSettings) -> Flags:
    if not settings.val_fraction:
        return np.zeros(pool.num_tasks, np.bool_)
    places = pool.once(("places", settings.seed), lambda: places_of([task.task_id for task in pool.tasks], settings.seed))
    return places < settings.val_fraction


def _holdout_error(num_train: int, num_validation: int, val_fraction: float) -> str:
    try:
        check_sides(num_train, num_validation, val_fraction)
    except ConfigError as error:
        return str(error)
    return ""


def _candidates(pool: Pool, settings: CurationSettings, columns: TaskColumns) -> _Candidates:
    key = settings.model_dump(
        include={"metric", "select", "max_per_task", "min_reward", "dedup", "include_errors", "rows", "max_pairs"}
    )
    return pool.once(("candidates", *key.values()), lambda: _find_candidates(pool, settings, columns))


def _find_candidates(pool: Pool, settings: CurationSettings, columns: TaskColumns) -> _Candidates:
    chosen = columns.counted.copy()
    if settings.select is not Select.ALL:
        minimum = settings.min_reward
        with np.errstate(invalid="ignore"):
            chosen &= columns.correct if minimum is None else columns.value >= minimum
    if settings.rows is Rows.PAIRS:
        return _find_pairs(pool, settings, columns, chosen & pool.has_verdict)
    usable = chosen & (pool.unusable == 0)
    rows = _in_order(pool, settings, columns, usable)
    unique = rows[_first_of_alike(pool, rows)] if settings.dedup else rows
    capped = _capped(pool, settings, unique)
    skipped = np.flatnonzero(chosen & ~usable)
    return _Candidates(
        rows=capped,
        rejected=None,
        skipped=skipped,
        num_rows=_count(pool, capped),
        num_tokens=_tokens(pool, capped),
        num_rows_without_tokens=_count(pool, capped[pool.num_tokens[capped] == 0]),
        num_skipped=_count(pool, skipped),
        num_duplicates=_count(pool, rows) - _count(pool, unique),
        num_over_cap=_count(pool, unique) - _count(pool, capped),
        num_contradicted=np.zeros(pool.num_tasks, np.int64),
    )


def _find_pairs(pool: Pool, settings: CurationSettings, columns: TaskColumns, passing: Flags) -> _Candidates:
    """Every passing reply that is selected against failing ones. Alike conversations count once on either side."""
    failing = columns.counted & pool.has_verdict & ~passing
    is_side = (pool.unusable == 0) & (pool.prompt != 0)
    both_ways = contradicted(pool, passing & is_side, failing & is_side)
    good = _in_order(pool, settings, columns, passing & is_side & ~both_ways)
    bad = _worst_first(pool, columns, failing & is_side & ~both_ways)
    different = [rows[_first_of_alike(pool, rows)] for rows in (good, bad)]
    pairs = pair_up(pool, _capped(pool, settings, different[0]), different[1], most=settings.max_pairs)
    skipped = np.flatnonzero((passing | failing) & ~is_side)
    lacks_tokens = (pool.num_tokens[pairs.chosen] == 0) | (pool.num_tokens[pairs.rejected] == 0)
    return _Candidates(
        rows=pairs.chosen,
        rejected=pairs.rejected,
        skipped=skipped,
        num_rows=_count(pool, pairs.chosen),
        num_tokens=_tokens(pool, pairs.chosen) + _tokens(pool, pairs.rejected),
        num_rows_without_tokens=_count(pool, pairs.chosen[lacks_tokens]),
        num_skipped=_count(pool, skipped),
        num_duplicates=_count(pool, np.r_[good, bad]) - _count(pool, np.r_[different[0], different[1]]),
        num_over_cap=pairs.num_over_cap,
        num_contradicted=_count(pool, np.flatnonzero(both_ways)),
    )


def _capped(pool: Pool, settings: CurationSettings, unique: Integers) -> Integers:
    """What max_per_task leaves of candidates in their order; of `best` the first."""
    cap = 1 if settings.select is Select.BEST else settings.max_per_task
    return unique if cap is None else unique[places_in_task(pool.task[unique]) < cap]


def _tokens(pool: Pool, attempts: Integers) -> Integers:
    found: Integers = np.bincount(pool.task[attempts], weights=pool.num_tokens[attempts], minlength=pool.num_tasks).astype(
        np.int64
    )
    return found


def _count(pool: Pool, attempts: Integers) -> Integers:
    return np.bincount(pool.task[attempts], minlength=pool.num_tasks)


def _in_order(pool: Pool, settings: CurationSettings, columns: TaskColumns, usable: Flags) -> Integers:
    """(R,) The usable candidates in the order of the rows; the pool stands sorted by attempt number and run already."""
    rows = np.flatnonzero(usable)
    keys = [-columns.value[rows], pool.task[rows]]
    if settings.select is Select.SHORTEST:
        lacks_tokens = _count(pool, rows[pool.num_tokens[rows] == 0]) > 0
        keys.insert(1, np.where(lacks_tokens[pool.task[rows]], pool.num_characters[rows], pool.num_tokens[rows]))
    ordered: Integers = rows[np.lexsort(keys)]
    return ordered


def _worst_first(pool: Pool, columns: TaskColumns, failing: Flags) -> Integers:
    """(F,) By task, the smallest metric first, then the order of the pool."""
    rows = np.flatnonzero(failing)
    ordered: Integers = rows[np.lexsort([columns.value[rows], pool.task[rows]])]
    return ordered


def _first_of_alike(pool: Pool, rows: Integers) -> Flags:
    """(R,) True for the first of each conversation within its task."""
    task, digest = pool.task[rows], pool.digest[rows]
    order = np.lexsort((digest, task))  # stable: alike ones stay in the order of the rows
    repeats = (np.diff(task[order]) == 0) & (np.diff(digest[order]) == 0)
    is_first = np.ones(len(rows), np.bool_)
    is_first[order[1:][repeats]] = False
    return is_first


def _histogram(columns: TaskColumns, kept: Flags) -> list[Bin]:
    """Tasks by avg over [0, 1], or wider where avg is: the two ends exactly, and NUM_BINS of equal width between them."""
    counted = columns.n > 0
    avg = columns.avg[counted]
    low, high = min(0.0, float(avg.min(initial=0.0))), max(1.0, float(avg.max(initial=1.0)))
    place = np.clip(((avg - low) / (high - low) * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1) + 1
    place[avg == low] = 0
    place[avg == high] = NUM_BINS + 1
    num_tasks = np.bincount(place, minlength=NUM_BINS + 2).tolist()
    num_kept = np.bincount(place[kept[counted]], minlength=NUM_BINS + 2).tolist()
    edges = [low, *(low + (high - low) * step / NUM_BINS for step in range(NUM_BINS + 1)), high]
    return [Bin(*ends) for ends in zip(edges, edges[1:], num_tasks, num_kept, strict=False)]
