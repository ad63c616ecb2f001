"""Rounds side by side: a column a round, a line a figure, so that one reads across how the model went on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.urls import reverse

from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.cycles.parts import seconds_of, tokens_of
from evsys_web.evals.models import EvalRun
from evsys_web.evals.templatetags.eval_numbers import interval, last_pass, percent, points, points_interval
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.templatetags.run_numbers import duration

NOTHING = "–"


class Cell(NamedTuple):
    """url, status: of the part that the figure is of."""

    text: str = NOTHING
    note: str = ""
    url: str = ""
    status: str = ""


class Line(NamedTuple):
    label: str
    cells: list[Cell]


class Table(NamedTuple):
    """columns: their headings; gained: for each whether it is a gain as the stop rule has it."""

    columns: list[str]
    gained: list[bool]
    lines: list[Line]


def table_of(cycle: Cycle, rounds: Sequence[CycleRound]) -> Table:
    """The baseline is the first column. A figure that nothing has yet has no line."""
    columns = ["Baseline", *(f"Round {round_.number}" for round_ in rounds)]
    lines = [Line(label, [first(cycle.baseline), *(cell(round_) for round_ in rounds)]) for label, first, cell in FIGURES]
    told = [line for line in lines if any(cell.status or cell.text not in ("", NOTHING) for cell in line.cells)]
    return Table(columns, [False, *(bool(round_.gained) for round_ in rounds)], told)


def _nothing(run: EvalRun | None) -> Cell:
    return Cell("")


def _right(run: EvalRun | None) -> Cell:
    avg = run.summary.get("avg") if run else None
    return Cell(percent(avg["value"]), interval(avg), run.get_absolute_url()) if run and avg else _standing(run)


def _pass(run: EvalRun | None) -> Cell:
    best = last_pass(run.summary) if run else None
    return Cell(percent(best.value), f"k = {best.k}, {interval(best)}") if best else Cell()


def _standing(part: EvalRun | TrainingRun | None) -> Cell:
    return Cell("", "", part.get_absolute_url(), str(part.status)) if part else Cell()


def _difference(found: dict[str, Any] | None, url: str = "") -> Cell:
    difference = (found or {}).get("difference")
    return Cell(points(difference["value"]), points_interval(difference), url) if difference else Cell()


def _against_baseline(round_: CycleRound) -> Cell:
    return _difference(round_.finding.get("baseline"), _compared_url(round_))


def _against_last_gain(round_: CycleRound) -> Cell:
    """Nothing before there is a gain: until then the baseline is what a round is held against."""
    return _difference(round_.finding.get("reference")) if round_.finding.get("reference_round") else Cell()


def _compared_url(round_: CycleRound) -> str:
    """Baseline and held-out eval, task by task; "" where one of them was deleted."""
    baseline, judged = round_.cycle.baseline_id, round_.judged_id
    return f"{reverse('evals:compare')}?a={baseline}&b={judged}" if baseline and judged else ""


def _changed(round_: CycleRound) -> Cell:
    found = round_.finding.get("baseline")
    changed = f"{found['num_newly_solved']:,} / {found['num_newly_broken']:,}" if found else ""
    return Cell(changed, "solved / broken", _compared_url(round_)) if found else Cell()


def _attempts(round_: CycleRound) -> Cell:
    run = round_.eval_run
    if run is None or not run.has_ended:
        return _standing(run)
    avg = run.summary.get("avg")
    return Cell(f"{run.num_done:,}", f"{percent(avg['value'])} right" if avg else "", run.get_absolute_url())


def _rows(round_: CycleRound) -> Cell:
    curation = round_.curation
    if curation is None:
        return Cell()
    kept = curation.counts.get("num_kept")
    return Cell(
        f"{curation.counts.get('num_rows', 0):,}",
        f"of {kept:,} tasks" if isinstance(kept, int) else "",
        curation.get_absolute_url(),
    )


def _training(round_: CycleRound) -> Cell:
    run = round_.training_run
    if run is None or not run.has_ended:
        return _standing(run)
    return Cell(f"{run.step:,} steps", duration(seconds_of(run)), run.get_absolute_url())


def _tokens(round_: CycleRound) -> Cell:
    """Sampled and trained on, in the parts that have ended."""
    ended = [part for part in (round_.eval_run, round_.training_run, round_.judged) if part and part.has_ended]
    return Cell(f"{sum(map(tokens_of, ended)):,}") if ended else Cell()


def _took(round_: CycleRound) -> Cell:
    return Cell(duration((round_.finished_at - round_.started_at).total_seconds())) if round_.finished_at else Cell()


FIGURES: list[tuple[str, Callable[[EvalRun | None], Cell], Callable[[CycleRound], Cell]]] = [
    ("Accuracy on held-out tasks", _right, lambda round_: _right(round_.judged)),
    ("pass@k on held-out tasks", _pass, lambda round_: _pass(round_.judged)),
    ("Against the baseline", _nothing, _against_baseline),
    ("Against the last gain", _nothing, _against_last_gain),
    ("Newly solved / broken", _nothing, _changed),
    ("Attempts to learn from", _nothing, _attempts),
    ("Rows", _nothing, _rows),
    ("Training", _nothing, _training),
    ("Tokens", lambda run: Cell(f"{tokens_of(run):,}") if run and run.has_ended else Cell(), _tokens),
    ("Took", lambda run: Cell(duration(seconds_of(run))) if run and run.has_ended else Cell(), _took),
]
