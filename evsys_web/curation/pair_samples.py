"""A few of the pairs that settings give, both replies side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from django.urls import reverse

from evsys_web.curation.pools import Sources
from evsys_web.evals.models import Attempt
from recipes.curation import CurationSettings, Rows, pair_row, select
from recipes.errors import DataError

NUM_PAIRS = 4
MAX_CHARACTERS = 400


class ShownSide(NamedTuple):
    """text: what the assistant said beyond the common prompt, shortened. attempt: from 0."""

    text: str
    url: str
    eval_run_id: int
    attempt: int
    score: float

    @property
    def number(self) -> int:
        return self.attempt + 1


class ShownPair(NamedTuple):
    task_id: str
    prompt: str
    chosen: ShownSide
    rejected: ShownSide


def sample_pairs(sources: Sources, settings: CurationSettings) -> list[ShownPair]:
    """The first pair of a few tasks, evenly spread over those that give one; [] where rows are no pairs."""
    if settings.rows is not Rows.PAIRS:
        return []
    pool, selection = sources.pool, select(sources.pool, settings.model_copy(update={"val_fraction": 0.0}))
    if not len(selection) or selection.rejected_score is None:
        return []
    firsts = np.flatnonzero(np.r_[True, np.diff(pool.task[selection.attempts]) != 0])
    spread = firsts[np.linspace(0, len(firsts) - 1, min(NUM_PAIRS, len(firsts))).round().astype(np.int64)]
    sides = {int(place): selection.sides(int(place)) for place in spread}
    keys = [int(pool.ids[at]) for each in sides.values() for at in each]
    stored = {row.pk: row for row in Attempt.objects.filter(pk__in=keys).select_related("task")}
    made = []
    for place, (one, other) in sides.items():
        rows = [stored.get(int(pool.ids[at])) for at in (one, other)]
        if rows[0] is None or rows[1] is None:
            continue  # deleted a moment ago
        try:
            pair = pair_row(rows[0].messages, rows[1].messages)
        except DataError:  # stored anew since the columns were read
            continue
        chosen = _side(rows[0], pair["chosen"], float(selection.score[place]))
        rejected = _side(rows[1], pair["rejected"], float(selection.rejected_score[place]))
        made.append(ShownPair(pool.tasks[pool.task[one]].task_id, rows[0].task.prompt, chosen, rejected))
    return made


def _side(row: Any, said: list[dict[str, Any]], score: float) -> ShownSide:
    text = "\n".join(_text(message) for message in said if message["role"] == "assistant").strip()
    url = f"{reverse('evals:task', args=[row.eval_run_id, row.task.position])}#attempt-{row.attempt + 1}"
    shortened = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
    return ShownSide(shortened, url, row.eval_run_id, row.attempt, score)


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(block["text"] for block in content)
