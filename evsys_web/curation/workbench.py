"""What the workbench shows of settings: figures, the histogram with the kept band, what changed, and tasks from both sides of the
cut with the reason."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evsys_web.curation.pair_samples import ShownPair, sample_pairs
from evsys_web.curation.pools import Sources, open_sources
from evsys_web.curation.samples import Sides, sample_sides
from evsys_web.evals.models import EvalRun
from recipes.curation import CurationSettings, Preview, Rows, compile_filter, preview
from recipes.errors import RecipeError

BAR_AREA = 44.0
"""Height of the histogram's bars, in the units of its view box, which is 100 wide."""


class Preset(NamedTuple):
    name: str
    text: str
    sentence: str

    @property
    def settings_json(self) -> str:
        return json.dumps({"filter": self.text})


PRESETS = (
    Preset("Solved", "solved", "Every task that was solved at least once."),
    Preset("Difficulty band", "0 < avg < 1", "Neither hopeless nor certain: where there is something to learn."),
    Preset("Sometimes solved", "0 < avg <= 0.5", "Solved, but in at most half of the attempts."),
    Preset("Hard only", "0 < avg <= 0.25", "Solved in at most a quarter of the attempts."),
)
EXAMPLES = (
    Preset("", "pass@4 >= 0.5 and n >= 4", "an even chance that four attempts hold a right one"),
    Preset("", "best - worst > 0.5", "attempts that differ widely in the metric"),
    Preset("", "not solved or avg < 0.2", "hard ones, the never solved included"),
)


class Split(NamedTuple):
    name: str
    num_tasks: int
    num_rows: int


class Bar(NamedTuple):
    """One bin, kept on top of dropped. In the units of the view box."""

    label: str
    x: float
    width: float
    top: float
    dropped_height: float
    middle: float
    kept_height: float


class Band(NamedTuple):
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Change:
    """Against the settings before, whose filter was `text`."""

    text: str
    tasks_in: int
    tasks_out: int
    rows: int

    @property
    def num_tasks(self) -> int:
        return self.tasks_in + self.tasks_out

    @property
    def rows_signed(self) -> str:
        return f"{self.rows:+,}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True, slots=True)
class Look:
    """What a page says of a Preview."""

    found: Preview
    splits: list[Split]
    bars: list[Bar]
    band: Band | None
    change: Change | None
    sides: Sides
    pairs: list[ShownPair]
    is_pairs: bool
    notes: list[str]
    before: str
    milliseconds: int

    @property
    def low(self) -> str:
        return f"{self.found.histogram[0].low:g}"

    @property
    def high(self) -> str:
        return f"{self.found.histogram[-1].high:g}"

    @property
    def histogram_label(self) -> str:
        found = self.found
        return f"Tasks by avg, from {self.low} to {self.high}: {found.num_kept:,} kept, {found.num_dropped:,} dropped"

    @property
    def skipped(self) -> list[tuple[str, int]]:
        return list(self.found.skipped.items())[:20]

    @property
    def empty_sentence(self) -> str:
        if self.found.num_kept and self.is_pairs:
            return "No kept task has a reply that passes and another one that does not: keep tasks with 0 < avg < 1."
        if self.found.num_kept:
            return "No attempt of the kept tasks is taken: choose another way to take them, or a lower bar."
        return "No task passes this filter."


def look_at(runs: Sequence[EvalRun], settings: CurationSettings, *, before: str = "") -> Look:
    """before: what `Look.before` was of the settings that were on the page. Raises DataError, ConfigError."""
    began = time.perf_counter()
    sources = open_sources(runs)
    found = preview(sources.pool, settings)
    change, earlier = _change(sources, settings, found, before)
    return Look(
        found=found,
        splits=_splits(found, settings),
        bars=_bars(found),
        band=_band(found),
        change=change,
        sides=sample_sides(sources, settings, found),
        pairs=sample_pairs(sources, settings),
        is_pairs=settings.rows is Rows.PAIRS,
        notes=_notes(sources, settings, found),
        before=earlier,
        milliseconds=max(1, round(1000 * (time.perf_counter() - began))),
    )


def _splits(found: Preview, settings: CurationSettings) -> list[Split]:
    if not settings.val_fraction:
        return []
    return [
        Split("train", found.num_train_tasks, found.num_train_rows),
        Split("validation", found.num_validation_tasks, found.num_validation_rows),
    ]


# what changed


def _change(sources: Sources, settings: CurationSettings, found: Preview, before: str) -> tuple[Change | None, str]:
    """The change, and what to send along next time. Nothing changed: the older settings stay to be compared with."""
    now = {"runs": sources.pool.runs, "settings": settings.model_dump(mode="json")}
    try:
        was = json.loads(before)
        old = CurationSettings.model_validate(was["settings"])
        is_comparable = was["runs"] == now["runs"] and isinstance(was.get("older"), dict | None)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, json.dumps(now)
    if not is_comparable:
        return None, json.dumps(now)
    if _says_the_same(old, settings):
        older = was.get("older")
        return (_compared(sources, older, found) if older else None), before
    change = _compared(sources, was["settings"], found)
    return change, json.dumps({**now, "older": was["settings"]})


def _says_the_same(old: CurationSettings, new: CurationSettings) -> bool:
    alike = [{**each.model_dump(), "filter": str(compile_filter(each.filter))} for each in (old, new)]
    return alike[0] == alike[1]


def _compared(sources: Sources, values: Any, found: Preview) -> Change | None:
    try:
        old = CurationSettings.model_validate(values)
        was = preview(sources.pool, old)
    except (ValueError, RecipeError):
        return None
    tasks_in, tasks_out = (int((a & ~b).sum()) for a, b in ((found.kept, was.kept), (was.kept, found.kept)))
    return Change(old.filter, tasks_in, tasks_out, found.num_rows - was.num_rows)


# the histogram


def _bars(found: Preview) -> list[Bar]:
    """The bins of exactly the least and the most stand a little apart, as wide as the others."""
    most = max((each.num_tasks for each in found.histogram), default=0)
    if not most:
        return []
    step = 100 / (len(found.histogram) + 1)
    bars = []
    for at, each in enumerate(found.histogram):
        heights = [BAR_AREA * count / most for count in (each.num_tasks, each.num_kept)]
        shift = 0.0 if at == 0 else step if at == len(found.histogram) - 1 else step / 2
        span = f"avg {each.low:.3g}" if each.low == each.high else f"avg {each.low:.3g} to {each.high:.3g}"
        label = f"{span}: {each.num_kept:,} of {each.num_tasks:,} tasks kept"
        top = BAR_AREA - heights[0]
        bars.append(Bar(label, at * step + shift, step * 0.84, top, heights[0] - heights[1], BAR_AREA - heights[1], heights[1]))
    return bars


def _band(found: Preview) -> Band | None:
    """From the first bin with a kept task to the last."""
    kept = [at for at, each in enumerate(found.histogram) if each.num_kept]
    bars = _bars(found)
    if not kept or not bars:
        return None
    first, last = bars[kept[0]], bars[kept[-1]]
    return Band(first.x - 0.4, last.x + last.width - first.x + 0.8)


def _notes(sources: Sources, settings: CurationSettings, found: Preview) -> list[str]:
    notes = []
    live = [run.name for run in sources.runs if not run.has_ended]
    if live:
        verb = "is" if len(live) == 1 else "are"
        notes.append(f"{', '.join(live)} {verb} still running: figures move as attempts arrive.")
    is_pairs = settings.rows is Rows.PAIRS
    none = "lack a reply that passes, or one that does not" if is_pairs else "have no attempt to take"
    for count, what in (
        (found.num_without_attempts, "tasks have no attempt with a verdict"),
        (found.num_kept_without_rows, f"kept tasks {none}"),
        (found.num_errors, "attempts ended in an error and count for nothing"),
        (found.num_without_metric, "attempts lack the metric"),
        (found.num_duplicates, f"{'replies' if is_pairs else 'rows'} are left out because they repeat another"),
        (found.num_contradicted, "attempts gave a reply that was judged right once and wrong once: no pair takes it"),
        (found.num_over_cap, f"{'pairs' if is_pairs else 'rows'} are left out by the cap per task"),
    ):
        if count:
            notes.append(f"{count:,} {what}.")
    if found.holdout_error:
        notes.append(found.holdout_error)
    return notes
