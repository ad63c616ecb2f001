"""Selected attempts as rows to train on, streamed from the database in the order of the selection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from evsys_web.curation.pools import Sources
from evsys_web.evals.models import Attempt, EvalRun
from recipes.curation import conversation_row
from recipes.errors import DataError
from recipes.jsonl import canonical_line
from recipes.types import Row

CHUNK = 500


def rows_of(sources: Sources, attempts: Iterable[int], scores: Iterable[float]) -> Iterator[Row]:
    """attempts: indices into the pool. Raises DataError when one is gone."""
    pool, tools = sources.pool, [_tools(run) for run in sources.runs]
    pairs = iter(zip(attempts, scores, strict=True))
    while batch := list(islice(pairs, CHUNK)):
        found = dict(Attempt.objects.filter(pk__in=[int(pool.ids[at]) for at, _ in batch]).values_list("pk", "messages"))
        for at, score in batch:
            run, task_id = sources.runs[pool.run[at]], pool.tasks[pool.task[at]].task_id
            messages = found.get(int(pool.ids[at]))
            if messages is None:
                raise DataError(f"Attempts of {run.name} were deleted meanwhile. Nothing was published; try again.")
            row = conversation_row(messages)
            if offered := tools[pool.run[at]].get(task_id):
                row["tools"] = offered
            row["metadata"] = {
                "eval_run": run.pk,
                "task_id": task_id,
                "attempt": int(pool.number[at]),
                "score": round(float(score), 12),
                "benchmark": run.benchmark.name if run.benchmark else run.dataset_reference,
                "model": run.model_label,
            }
            yield row


def _tools(run: EvalRun) -> dict[str, list[Any]]:
    """By task id, the tools that the model was offered; tasks mostly share them, and so they share one list here."""
    if run.dataset_version is None:
        return {}
    shared: dict[bytes, list[Any]] = {}
    found = {}
    for row in run.dataset_version.read_rows():
        if tools := row.get("tools"):
            found[str(row["task_id"])] = shared.setdefault(canonical_line({"tools": tools}), tools)
    return found
