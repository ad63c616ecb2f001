"""Selected attempts as rows to train on, streamed from the database in the order of the selection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from evsys_web.curation.pools import Sources
from evsys_web.evals.models import Attempt, EvalRun
from recipes.curation import Selection, conversation_row, pair_row
from recipes.errors import DataError
from recipes.jsonl import canonical_line
from recipes.types import Row

CHUNK = 500


def rows_of(sources: Sources, selection: Selection, places: Iterable[int]) -> Iterator[Row]:
    """places: of the selection, in the order wanted. Raises DataError when an attempt is gone."""
    pool, tools = sources.pool, [_tools(run) for run in sources.runs]
    rest = iter(places)
    while batch := list(islice(rest, CHUNK)):
        sides = [selection.sides(place) for place in batch]
        keys = {int(pool.ids[at]) for side in sides for at in side}
        found = dict(Attempt.objects.filter(pk__in=keys).values_list("pk", "messages"))
        for place, (at, other) in zip(batch, ((side[0], side[1:]) for side in sides), strict=True):
            run, task_id = sources.runs[pool.run[at]], pool.tasks[pool.task[at]].task_id
            said = [_said(sources, found, each) for each in (at, *other)]
            row = pair_row(*said) if other else conversation_row(*said)
            if offered := tools[pool.run[at]].get(task_id):
                row["tools"] = offered
            row["metadata"] = {
                "eval_run": run.pk,
                "task_id": task_id,
                "attempt": int(pool.number[at]),
                "score": _score(selection.score[place]),
                "benchmark": run.benchmark.name if run.benchmark else run.dataset_reference,
                "model": run.model_label,
            }
            if other and selection.rejected_score is not None:
                row["metadata"] |= {
                    "rejected_eval_run": sources.runs[pool.run[other[0]]].pk,
                    "rejected_attempt": int(pool.number[other[0]]),
                    "rejected_score": _score(selection.rejected_score[place]),
                }
            yield row


def _said(sources: Sources, found: Mapping[int, Any], at: int) -> Any:
    messages = found.get(int(sources.pool.ids[at]))
    if messages is None:
        name = sources.runs[sources.pool.run[at]].name
        raise DataError(f"Attempts of {name} were deleted meanwhile. Nothing was published; try again.")
    return messages


def _score(value: Any) -> float:
    return round(float(value), 12)


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
