"""Two eval runs beside each other: what can honestly be said in a sentence, and which tasks changed, with the way to both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from evsys_web.evals.models import EvalRun, EvalTask
from evsys_web.evals.templatetags.eval_numbers import p_value, points, points_interval
from recipes.evals.metrics import Summary, TaskCount, summarise
from recipes.evals.sample_size import Spread, spread_of
from recipes.evals.statistics import Comparison, compare

SIGNIFICANT = 0.05
MAX_LISTED = 200


class TaskPair(NamedTuple):
    """A task in both runs: where it stands, and how many of its verdicts are right."""

    task_id: str
    position_a: int
    right_a: int
    n_a: int
    position_b: int
    right_b: int
    n_b: int


@dataclass(frozen=True, slots=True)
class Finding:
    """level: of the notice. notes: what should be known beside the sentence."""

    level: str
    icon: str
    sentence: str
    notes: list[str]


class Counts:
    """The tasks of one run by id, read once. leaked: ids of those that its model was trained on."""

    def __init__(self, run: EvalRun) -> None:
        columns = ("task_id", "n", "num_correct", "sum_reward", "num_errors", "position", "is_leaked")
        self.by_id: dict[str, TaskCount] = {}
        self.positions: dict[str, int] = {}
        self.leaked: set[str] = set()
        for *count, position, is_leaked in EvalTask.objects.filter(eval_run=run).order_by("position").values_list(*columns):
            self.by_id[count[0]] = TaskCount(*count)
            self.positions[count[0]] = position
            if is_leaked:
                self.leaked.add(count[0])

    def without(self, leaked: set[str]) -> dict[str, TaskCount]:
        return {task_id: count for task_id, count in self.by_id.items() if task_id not in leaked} if leaked else self.by_id


class RunsCompared:
    """b against a; a positive difference means that b is better. of_a, of_b: each over the tasks that both met. Tasks that either
    model was trained on are out of all numbers: num_leaked of those that both met. spread: sample sizes are reckoned from it."""

    def __init__(self, a: EvalRun, b: EvalRun) -> None:
        self._a, self._b = Counts(a), Counts(b)
        leaked = self._a.leaked | self._b.leaked
        self.num_leaked = sum(task_id in self._a.by_id and task_id in self._b.by_id for task_id in leaked)
        kept, judged = self._a.without(leaked), self._b.without(leaked)
        self.comparison: Comparison = compare(kept, judged)
        self.spread: Spread | None = spread_of(kept, judged)
        common = [task_id for task_id, count in kept.items() if count.n and self._has_verdict(task_id)]
        self.of_a: Summary = summarise([self._a.by_id[task_id] for task_id in common], ks=[])
        self.of_b: Summary = summarise([self._b.by_id[task_id] for task_id in common], ks=[])

    def newly_solved(self) -> list[TaskPair]:
        return [self._pair(task_id) for task_id in self.comparison.newly_solved[:MAX_LISTED]]

    def newly_broken(self) -> list[TaskPair]:
        return [self._pair(task_id) for task_id in self.comparison.newly_broken[:MAX_LISTED]]

    def _has_verdict(self, task_id: str) -> bool:
        other = self._b.by_id.get(task_id)
        return other is not None and other.n > 0

    def _pair(self, task_id: str) -> TaskPair:
        a, b = self._a.by_id[task_id], self._b.by_id[task_id]
        return TaskPair(task_id, self._a.positions[task_id], a.num_correct, a.n, self._b.positions[task_id], b.num_correct, b.n)


def say(found: Comparison, num_leaked: int = 0) -> Finding:
    """What the numbers allow to be said, and no more. num_leaked: tasks in common that were left out."""
    if found.difference is None or found.p_value is None:
        return Finding("info", "info", "No task has a verdict in both evals.", _notes(found, num_leaked))
    difference, tasks = found.difference, _tasks(found.num_common)
    p = p_value(found.p_value)
    sure = f"95 % interval {points_interval(difference)}, p {p if p.startswith('<') else f'= {p}'}"
    notes = _notes(found, num_leaked)
    if found.p_value < SIGNIFICANT:
        better = difference.value > 0
        size = points(abs(difference.value)).removeprefix("+")
        sentence = f"B is right {'more' if better else 'less'} often than A, by {size} on the {tasks} in common ({sure})."
        if num_leaked:  # which tasks are left may itself come from these numbers
            return Finding("warning", "warning", sentence, notes)
        return Finding("success" if better else "error", "check" if better else "warning", sentence, notes)
    if found.minimum_detectable_effect is not None:
        effect = points(found.minimum_detectable_effect).removeprefix("+")
        notes.insert(
            0, f"With {tasks} that differ as much as these, a true difference of {effect} would be seen four times out of five."
        )
    sentence = f"No difference can be seen: B − A is {points(difference.value)} on the {tasks} in common ({sure})."
    return Finding("info", "info", sentence, notes)


def _notes(found: Comparison, num_leaked: int) -> list[str]:
    notes = []
    if num_leaked:
        notes.append(
            f"Left out: {_tasks(num_leaked)} in common that trained one of the two models. Where their attempts in A or B "
            "decided which ones, the tasks that are left were chosen by the very numbers compared here: trust a benchmark that "
            "neither model learnt from."
        )
    if found.num_only_a or found.num_only_b:
        left = [f"{_tasks(n)} only in {name}" for n, name in ((found.num_only_a, "A"), (found.num_only_b, "B")) if n]
        notes.append(f"Left out: {' and '.join(left)}.")
    return notes


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count:,} tasks"
