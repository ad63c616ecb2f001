"""Attempts of several eval runs, pooled by task and ready to be asked the same question again and again.

The key of a task is (benchmark, task id). Attempts stand sorted by task (first seen first), attempt number, run. What does not
depend on the filter is worked out once per pool and kept, so that another filter costs a walk over the tasks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from recipes.curation.columns import Columns, Flags, Floats, Integers
from recipes.curation.filters import COMPARE, COMPUTE, Aggregates, absent_metric, metric_name
from recipes.curation.tree import And, Comparison, Flag, Name, Negative, Node, Not, Number, Operator, Or
from recipes.errors import DataError
from recipes.evals.metrics import pass_at_k

MOST_KEPT = 12
ValueT = TypeVar("ValueT")


class TaskKey(NamedTuple):
    benchmark: str
    task_id: str


@dataclass(frozen=True, slots=True)
class TaskColumns:
    """Aggregates of M tasks as (M,) columns; n 0 marks a task without attempts that count, whose others are NaN or 0.
    counted: (A,) which attempts count; value: (A,) their metric, NaN elsewhere; correct: (A,) which of them are right."""

    n: Integers
    n_correct: Integers
    avg: Floats
    best: Floats
    worst: Floats
    counted: Flags
    value: Floats
    correct: Flags
    num_errors: int
    num_without_metric: int

    def of(self, name: Name) -> Floats:
        """As `Aggregates.of`, for all tasks."""
        if name.name == "pass":
            return self._pass_at(name.k or 1)
        if name.name == "solved":
            return (self.n_correct > 0).astype(np.float64)
        column: Floats = getattr(self, name.name).astype(np.float64)
        return column

    def _pass_at(self, k: int) -> Floats:
        """Exactly rounded, by the one formula there is: tasks share few (n, n_correct) pairs."""
        base = int(self.n.max(initial=0)) + 1
        pairs, inverse = np.unique(self.n * base + self.n_correct, return_inverse=True)
        values = np.array([pass_at_k(pair // base, pair % base, k) for pair in pairs.tolist()], np.float64)
        return values[inverse.reshape(-1)] if len(pairs) else np.zeros(0)

    def task(self, index: int) -> Aggregates | None:
        """The aggregates of one task, None when none of its attempts counts."""
        if not self.n[index]:
            return None
        floats = (float(column[index]) for column in (self.avg, self.best, self.worst))
        return Aggregates(int(self.n[index]), int(self.n_correct[index]), *floats)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """A attempts at M tasks. starts: (M + 1,) where each task's attempts begin. run: (A,) index into runs; the other columns as
    `Columns` has them, `task` rising. num_repeated: attempts that were given twice and count once."""

    runs: list[str]
    tasks: list[TaskKey]
    starts: Integers
    run: Integers
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
    num_repeated: int = 0
    _kept: dict[Any, tuple[Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, runs: Sequence[Columns]) -> Pool:
        """Pool the runs, in this order. A run named twice counts once.
        Raises DataError for two different attempts with one number, at one task, in one run."""
        firsts = {columns.run: columns for columns in reversed(runs)}
        chosen = [firsts[run] for run in dict.fromkeys(columns.run for columns in runs)]
        num_again = sum(map(len, runs)) - sum(map(len, chosen))
        tasks: dict[TaskKey, int] = {}
        reasons = {"": 0}
        task, unusable = [], []
        for columns in chosen:
            keys = map(TaskKey, columns.benchmarks, columns.task_ids)
            places = [tasks.setdefault(key, len(tasks)) for key in keys]
            task.append(np.array(places, np.int64)[columns.task])
            known = [reasons.setdefault(reason, len(reasons)) for reason in columns.reasons]
            unusable.append(np.array(known, np.int64)[columns.unusable])
        of_run = [np.full(len(columns), index, np.int64) for index, columns in enumerate(chosen)]
        names = dict.fromkeys(name for columns in chosen for name in columns.signals)
        joined = {name: _joined([getattr(columns, name) for columns in chosen]) for name in _JOINED}
        joined |= {"run": _joined(of_run), "task": _joined(task), "unusable": _joined(unusable)}
        signals = {
            name: _joined([columns.signals.get(name, np.full(len(columns), np.nan)) for columns in chosen]) for name in names
        }
        order = np.lexsort((joined["run"], joined["number"], joined["task"]))
        order, num_same = _without_repeats(order, joined, list(tasks), [columns.run for columns in chosen])
        columns_in_order = {name: column[order] for name, column in joined.items()}
        return cls(
            runs=[columns.run for columns in chosen],
            tasks=list(tasks),
            starts=np.searchsorted(columns_in_order["task"], np.arange(len(tasks) + 1)).astype(np.int64),
            signals={name: column[order] for name, column in signals.items()},
            reasons=list(reasons),
            num_repeated=num_again + num_same,
            **columns_in_order,
        )

    def __len__(self) -> int:
        return len(self.task)

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    @property
    def metrics(self) -> list[str]:
        """What `metric` may name."""
        return ["is_correct", "reward", *sorted(self.signals)]

    def once(self, key: tuple[Any, ...], work: Callable[[], ValueT]) -> ValueT:
        """What `work` gives, worked out at the first call with this key; the newest few are kept."""
        found = self._kept.pop(key, None)
        if found is None:
            found = (work(),)
        while len(self._kept) >= MOST_KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[key] = found
        return found[0]

    def aggregates(self, metric: str = "is_correct", *, include_errors: bool = False) -> TaskColumns:
        """Raises DataError when no attempt has the metric."""
        metric = metric_name(metric)
        return self.once(("aggregates", metric, include_errors), lambda: self._aggregates(metric, include_errors))

    def _aggregates(self, metric: str, include_errors: bool) -> TaskColumns:
        value = self._metric(metric)
        without_metric = self.has_verdict & np.isnan(value)
        counted = self.has_verdict & ~without_metric
        if include_errors:
            value = np.where(self.has_verdict, value, 0.0)
            counted = counted | ~self.has_verdict
        correct = counted & self.is_correct
        n, n_correct = self._per_task(np.add, counted), self._per_task(np.add, correct)
        with np.errstate(invalid="ignore", divide="ignore"):
            return TaskColumns(
                n=n,
                n_correct=n_correct,
                avg=self._means(np.where(counted, value, 0.0), counted, n),
                best=np.where(n > 0, self._per_task(np.maximum, np.where(counted, value, -np.inf)), np.nan),
                worst=np.where(n > 0, self._per_task(np.minimum, np.where(counted, value, np.inf)), np.nan),
                counted=counted,
                value=np.where(counted, value, np.nan),
                correct=correct,
                num_errors=int((~self.has_verdict).sum()),
                num_without_metric=int(without_metric.sum()),
            )

    def _metric(self, metric: str) -> Floats:
        if metric == "is_correct":
            return self.is_correct.astype(np.float64)
        if metric == "reward":
            return self.reward
        found = self.signals.get(metric)
        if found is None or (len(found) and np.isnan(found).all()):
            raise absent_metric(metric, self.signals)
        return found

    def _per_task(self, ufunc: np.ufunc, column: Any) -> Any:
        """(A,) → (M,). Every task has attempts, so that no slice is empty."""
        if not self.num_tasks:
            return np.zeros(0, column.dtype)
        dtype = np.int64 if column.dtype == np.bool_ else None
        return ufunc.reduceat(column, self.starts[:-1], dtype=dtype)

    def _means(self, value: Floats, counted: Flags, n: Integers) -> Floats:
        """Exactly rounded: every value is split into two whole numbers, high·2⁻⁴⁰ + low·2⁻⁹⁰, whose sums no int64 rounds, and
        whose quotient Python rounds once. Tasks with values that do not split are summed as fractions."""
        most = int(n.max(initial=1))
        fits = (np.abs(value) < 2.0**22 / most) & (most < 2**13)
        scaled = np.where(fits, value, 0.0) * 2.0**40
        high = np.trunc(scaled)
        low = (scaled - high) * 2.0**50
        splits = fits & (low == np.trunc(low))
        sums = [self._per_task(np.add, np.where(splits, part, 0.0).astype(np.int64)).tolist() for part in (high, low)]
        means = [
            ((above << 50) + below) / (count << 90) if count else np.nan
            for above, below, count in zip(*sums, n.tolist(), strict=True)
        ]
        for index in np.flatnonzero((self._per_task(np.add, ~splits) > 0) & (n > 0)).tolist():
            span = slice(self.starts[index], self.starts[index + 1])
            means[index] = exact_mean(value[span][counted[span]].tolist())
        return np.array(means, np.float64)


def places_in_task(task: Integers) -> Integers:
    """(R,) 0, 1, … within each run of one task; `task` does not fall."""
    places = np.arange(len(task))
    begins = np.r_[True, np.diff(task) != 0][: len(task)]
    return places - np.maximum.accumulate(np.where(begins, places, 0)) if len(task) else places


def exact_mean(values: list[float]) -> float:
    """The mean, rounded once: binary fractions over their largest denominator are whole numbers."""
    fractions = [value.as_integer_ratio() for value in values]
    denominator = max(below for _, below in fractions)
    return sum(above * (denominator // below) for above, below in fractions) / (denominator * len(values))


def values_of(node: Node, columns: TaskColumns) -> Floats:
    """The tree over all tasks: (M,), or () where no name is involved. As `filters.value_of` for each task with n > 0."""
    with np.errstate(all="ignore"):
        return np.asarray(_values_of(node, columns), np.float64)


def _values_of(node: Node, columns: TaskColumns) -> Any:
    if isinstance(node, Number | Flag):
        return np.float64(node.value)
    if isinstance(node, Name):
        return columns.of(node)
    if isinstance(node, Negative):
        return -_values_of(node.operand, columns)
    if isinstance(node, Not):
        return np.float64(1.0) - (_values_of(node.operand, columns) != 0)
    if isinstance(node, And | Or):
        value = _values_of(node.parts[0], columns)
        for part in node.parts[1:]:
            decided = (value != 0) if isinstance(node, Or) else (value == 0)
            value = np.where(decided, value, _values_of(part, columns))
        return value
    value, holds = _values_of(node.first, columns), np.float64(1.0)
    for step in node.rest:
        other = _values_of(step.operand, columns)
        if isinstance(node, Comparison):
            holds = holds * COMPARE[step.operator](value, other)
            value = other
        else:
            value = _computed(step.operator, value, other)
    return holds if isinstance(node, Comparison) else value


def _computed(operator: Operator, left: Any, right: Any) -> Any:
    return COMPUTE[operator](left, right)


_JOINED = ("number", "ids", "has_verdict", "is_correct", "reward", "num_tokens", "num_characters", "digest", "prompt")


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _without_repeats(order: Any, columns: dict[str, Any], tasks: list[TaskKey], runs: list[str]) -> tuple[Any, int]:
    """The order without attempts that stand there already (a file may hold a line twice, or an error and the retry of it), and
    how many those are. Raises DataError where two with one number differ."""
    keys = [columns[name][order] for name in ("task", "number", "run")]
    repeats = np.ones(max(len(order) - 1, 0), np.bool_)
    for key in keys:
        repeats &= key[1:] == key[:-1]
    if not repeats.any():
        return order, 0
    keep = np.ones(len(order), np.bool_)
    kept = 0
    for place in range(1, len(order)):
        if not repeats[place - 1]:
            kept = place
            continue
        first, second = order[kept], order[place]
        if columns["has_verdict"][first] and columns["has_verdict"][second]:
            alike = ("digest", "is_correct", "unusable")
            if any(columns[name][first] != columns[name][second] for name in alike):
                run = runs[columns["run"][first]]
                raise DataError(
                    f"Task {tasks[columns['task'][first]].task_id!r} has two different attempts with the number "
                    f"{columns['number'][first]} in {f'run {run!r}' if run else 'one run'}. Give every eval run a name of its "
                    "own in `run`."
                )
        if columns["has_verdict"][second] and not columns["has_verdict"][first]:
            keep[kept], kept = False, place
        else:
            keep[place] = False
    return order[keep], int((~keep).sum())
