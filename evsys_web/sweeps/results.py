"""What came of a sweep: a row per combination, each metric as mean ± standard deviation over its completed runs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from django.db.models import Prefetch

from evsys_web.attachments import inert
from evsys_web.runs import metrics
from evsys_web.runs.headlines import headline_of
from evsys_web.runs.models import ACTIVE, Status, TrainingRun
from evsys_web.sweeps.models import Sweep, SweepRun
from recipes.sweep_config import Spread, combinations_of, text_of

MAX_SHOWN = 6
MAX_DEFAULT_EVALS = 3
NUM_RUNS_LOOKED_AT = 8


class Row(NamedTuple):
    """A combination. values: by axis. spreads: in the order of the table's keys, None where no completed run has the key."""

    combination: int
    values: dict[str, Any]
    members: list[SweepRun]
    spreads: list[Spread | None]

    @property
    def texts(self) -> list[str]:
        return [text_of(value) for value in self.values.values()]

    @property
    def num_completed(self) -> int:
        return self._num(Status.COMPLETED)

    @property
    def num_failed(self) -> int:
        return self._num(Status.FAILED, Status.CRASHED)

    @property
    def num_cancelled(self) -> int:
        return self._num(Status.CANCELLED)

    @property
    def num_live(self) -> int:
        return self._num(Status.QUEUED, *ACTIVE)

    def _num(self, *statuses: str) -> int:
        return sum(member.run.status in statuses for member in self.members)


class Table(NamedTuple):
    """axes: their paths. keys: metrics shown; offered: all there are. sort: what the rows are ordered by, "-" before it for the
    other way round; empty for the order of the axes."""

    axes: list[str]
    keys: list[str]
    offered: list[str]
    sort: str
    rows: list[Row]

    @property
    def names(self) -> list[str]:
        """The axes as a column's head has room for."""
        return [path.removeprefix("algorithm.params.").removeprefix("backend.params.") for path in self.axes]


def table_of(sweep: Sweep, *, asked: Sequence[str] = (), sort: str = "") -> Table:
    """asked: the metrics to show; none for the last value of some evals, and the reward or the loss."""
    members = members_of(sweep)
    completed = [member.run for member in members if member.run.status == Status.COMPLETED]
    offered = _keys(completed)
    keys = [key for key in dict.fromkeys(asked) if key in offered][:MAX_SHOWN] or shown_first(offered, completed)
    last = {key: metrics.last_values({run.pk: key for run in completed}) for key in keys}
    rows = []
    for number, values in enumerate(combinations_of(sweep.axes)):
        of_it = [member for member in members if member.combination == number]
        spreads = [Spread.of([last[key][member.run_id] for member in of_it if member.run_id in last[key]]) for key in keys]
        rows.append(Row(number, values, of_it, spreads))
    axes = list(sweep.axes)
    wanted = sort.removeprefix("-")
    if wanted not in (*axes, *keys):
        sort = ""
    elif wanted in keys:
        rows = _by_metric(rows, keys.index(wanted), falling=sort.startswith("-"))
    else:
        rows.sort(key=lambda row: _comparable(row.values[wanted]), reverse=sort.startswith("-"))
    return Table(axes, keys, offered, sort, rows)


def members_of(sweep: Sweep) -> list[SweepRun]:
    """With their runs, in the order of the matrix."""
    runs = TrainingRun.objects.defer("error_detail")
    members = sweep.members.prefetch_related(Prefetch("run", queryset=runs))
    return list(members.order_by("combination", "seed", "pk"))


def shown_first(offered: Sequence[str], runs: Iterable[TrainingRun]) -> list[str]:
    """What is shown unless somebody chooses: a few evals, then what the runs' algorithms are judged by."""
    evals = [key for key in offered if key.startswith("eval/")][:MAX_DEFAULT_EVALS]
    judged_by = dict.fromkeys(headline_of(run).key for run in runs)
    return [*evals, *(key for key in judged_by if key in offered and key not in evals)][:MAX_SHOWN] or list(offered[:1])


def csv_chunks(table: Table) -> Iterator[bytes]:
    """A line per combination: the axes, how many runs ended how, and mean, deviation and n of each metric shown."""
    text = io.StringIO()
    writer = csv.writer(text)
    of_metrics = [f"{key} {what}" for key in table.keys for what in ("mean", "sd", "n")]
    writer.writerow([*map(inert, table.axes), "completed", "failed", "cancelled", "live", *map(inert, of_metrics)])
    for row in table.rows:
        spreads: list[Any] = []
        for spread in row.spreads:
            spreads += ["", "", 0] if spread is None else [_digits(spread.mean), _digits(spread.deviation), spread.n]
        counts = [row.num_completed, row.num_failed, row.num_cancelled, row.num_live]
        writer.writerow([*map(inert, row.texts), *counts, *spreads])
    yield text.getvalue().encode()


def _keys(runs: Sequence[TrainingRun]) -> list[str]:
    """Those of some runs, evenly over all: runs of a sweep mostly report the same."""
    spaced = runs[:: max(1, len(runs) // NUM_RUNS_LOOKED_AT)][:NUM_RUNS_LOOKED_AT]
    return sorted({key for run in spaced for key in metrics.keys(run)})


def _by_metric(rows: list[Row], place: int, *, falling: bool) -> list[Row]:
    """Rows without a number come last, whichever way it goes."""

    def mean(row: Row) -> float | None:
        spread = row.spreads[place]
        return spread.mean if spread is not None and math.isfinite(spread.mean) else None

    known = [row for row in rows if mean(row) is not None]
    known.sort(key=lambda row: mean(row) or 0.0, reverse=falling)
    return [*known, *(row for row in rows if mean(row) is None)]


def _comparable(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, text_of(value))


def _digits(value: float | None) -> str:
    """Twelve, so that 1.1 is not 1.0999999999999999."""
    return "" if value is None else f"{value:.12g}"
