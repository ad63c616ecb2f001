"""A few tasks from both sides of the cut: what their attempts add up to, the reason, and which attempts become rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from django.urls import reverse

from evsys_web.curation.pools import Sources
from evsys_web.evals.models import Attempt
from recipes.curation import CurationSettings, Pool, Preview, TaskColumns, compile_filter, select

NUM_SAMPLES = 5
NUM_ATTEMPTS_SHOWN = 16


class Tried(NamedTuple):
    """An attempt as a small mark. kind: right, wrong or error. is_row: it becomes a row, or a side of one."""

    url: str
    kind: str
    title: str
    is_row: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """A task. `reason`: the condition that decides, with the values of the names in it."""

    task_id: str
    prompt: str
    url: str
    n: int
    n_correct: int
    avg: float
    reason: str
    attempts: list[Tried]
    num_more: int


class Sides(NamedTuple):
    inside: list[Sample]
    outside: list[Sample]


def sample_sides(sources: Sources, settings: CurationSettings, found: Preview) -> Sides:
    """Up to NUM_SAMPLES tasks of each side, evenly spread from the lowest avg to the highest."""
    pool = sources.pool
    columns = pool.aggregates(settings.metric, include_errors=settings.include_errors)
    sides = [_spread(columns, mask) for mask in (found.kept, ~found.kept & (columns.n > 0))]
    shown = [list(range(pool.starts[task], pool.starts[task + 1]))[:NUM_ATTEMPTS_SHOWN] for side in sides for task in side]
    pks = [int(pool.ids[at]) for attempts in shown for at in attempts]
    rows = Attempt.objects.filter(pk__in=pks).select_related("task")
    by_pk = {row.pk: row for row in rows.only("attempt", "eval_run_id", "task__position", "task__prompt", "task__eval_run_id")}
    becomes = _becomes(pool, settings)
    explain = compile_filter(settings.filter).explain
    made = []
    for task, attempts in zip([task for side in sides for task in side], shown, strict=True):
        stored = [(at, by_pk[pk]) for at in attempts if (pk := int(pool.ids[at])) in by_pk]
        aggregates = columns.task(task)
        if not stored or aggregates is None:
            continue  # deleted a moment ago
        first = stored[0][1].task
        more = int(pool.starts[task + 1] - pool.starts[task]) - len(attempts)
        marks = [_mark(pool, at, row, becomes.get(at, ""), len(sources.runs)) for at, row in stored]
        made.append(
            Sample(
                *(pool.tasks[task].task_id, first.prompt, first.get_absolute_url(), aggregates.n, aggregates.n_correct),
                *(aggregates.avg, explain(aggregates), marks, more),
            )
        )
    return Sides(made[: len(sides[0])], made[len(sides[0]) :])


def _spread(columns: TaskColumns, mask: np.ndarray) -> list[int]:
    tasks = np.flatnonzero(mask)
    ordered = tasks[np.argsort(columns.avg[tasks], kind="stable")]
    if len(ordered) > NUM_SAMPLES:
        ordered = ordered[np.linspace(0, len(ordered) - 1, NUM_SAMPLES).round().astype(np.int64)]
    return [int(task) for task in ordered]


def _becomes(pool: Pool, settings: CurationSettings) -> dict[int, str]:
    """What attempts become, on whichever side of the holdout, by their index in the pool; the others are not in it."""
    selection = select(pool, settings.model_copy(update={"val_fraction": 0.0}))
    if selection.rejected is None:
        return dict.fromkeys(selection.attempts.tolist(), "becomes a row")
    chosen = dict.fromkeys(selection.attempts.tolist(), "chosen in a pair")
    return chosen | dict.fromkeys(selection.rejected.tolist(), "rejected in a pair")


def _mark(pool: Pool, at: int, row: Attempt, becomes: str, num_runs: int) -> Tried:
    kind = "error" if not pool.has_verdict[at] else "right" if pool.is_correct[at] else "wrong"
    run = f" of eval {row.eval_run_id}" if num_runs > 1 else ""
    reason = pool.reasons[pool.unusable[at]]
    said = f", {becomes}" if becomes else f", no row: {reason}" if reason else ""
    url = reverse("evals:task", args=[row.eval_run_id, row.task.position])
    return Tried(f"{url}#attempt-{row.attempt + 1}", kind, f"Attempt {row.attempt + 1}{run}: {kind}{said}", bool(becomes))
