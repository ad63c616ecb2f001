"""Sole owner of point storage. A live step is one JSON row; older rows are folded into chunks per key (see `chunks.py`).

Reading is chunks plus the rows not folded yet. Folding moves the oldest rows in one transaction, so a reader that takes the rows
first and the chunks second misses nothing; what it sees twice it knows by `seq`. Only the holder of a run's lease (or, for runs
trained elsewhere, of its row's lock) writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import OuterRef, Q, Subquery
from django.utils.timezone import now

from evsys_web.runs.chunks import (
    Column,
    Floats,
    Series,
    decode_column,
    decode_integers,
    downsample,
    encode_column,
    encode_integers,
    plain,
)
from evsys_web.runs.models import MetricChunk, MetricRow, TrainingRun
from recipes.errors import DataError

FOLD_ROWS = 1000
KEEP_ROWS = 500
"""So many rows stay unfolded while a run is live, so that viewers seldom have to look into chunks."""
MAX_STEP = 2**53
"""Integers beyond it are not exact as floats; a zoom to there (or to infinity, or NaN) is not looked up in the tables."""
SEQ, STEP, AT = ":seq", ":step", ":at"
"""The axes of a stretch are stored like keys; a metric's key never begins with a colon."""
TOKENS = "tokens/total"
Axis = Literal["step", "time", "tokens"]
_INSERT = 'INSERT INTO runs_metricrow (run_id, seq, step, at, "values") VALUES (%s, %s, %s, %s, %s)'


class Point(NamedTuple):
    """What one step reported."""

    step: int
    at: datetime
    values: Mapping[str, float]


class Row(NamedTuple):
    seq: int
    step: int
    at: datetime
    values: dict[str, float]


def checked(values: Mapping[str, Any]) -> dict[str, float]:
    """The values as floats. Raises DataError for what is no number, and for a key that cannot be stored."""
    numbers = {}
    for key, value in values.items():
        if not isinstance(key, str) or not 0 < len(key) <= 200 or key.startswith(":") or not key.isprintable():
            raise DataError(f"{key!r} is no metric key: use area/name, at most 200 characters, no leading colon.", field="values")
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError):
            raise DataError(
                f"The metric {key!r} is {value!r}; it must be a number.", field=f"values.{key}", found=value
            ) from None
    return numbers


def append(run: TrainingRun, step: int, values: Mapping[str, float], *, at: datetime | None = None) -> int:
    """Add one point and return its seq. For writers without a lease; the recorder writes many at once."""
    with transaction.atomic():
        seq = run.next_seqs(1)
        write(run, [(seq, Point(step, at or now(), checked(values)))])
    return seq


def write(run: TrainingRun, points: Iterable[tuple[int, Point]]) -> None:
    """Store points under the numbers reserved for them. Call it inside the transaction that reserved them. The statement is made
    by hand: by the ORM, a commit of one step takes twice its processor time."""
    database = connections[DEFAULT_DB_ALIAS]
    moment = database.ops.adapt_datetimefield_value
    rows = [(run.pk, seq, point.step, moment(point.at), _json(point.values)) for seq, point in points]
    if rows:
        with database.cursor() as cursor:
            cursor.executemany(_INSERT, rows)


def _json(values: Mapping[str, float]) -> str:
    finite = math.isfinite(sum(values.values()))
    return orjson.dumps(values if finite else {key: plain(value) for key, value in values.items()}).decode()


def after(run: TrainingRun, seq: int, *, limit: int = 1000) -> list[Row]:
    """The rows beyond `seq`, oldest first, at most `limit`."""
    found = {row.seq: row for row in _tail(run, Q(seq__gt=seq), limit)}
    folded: list[Row] = []
    stretches = MetricChunk.objects.filter(run=run, key=SEQ, last_seq__gt=seq).order_by("first_seq")
    for first_seq in stretches.values_list("first_seq", flat=True)[: 2 + limit // FOLD_ROWS]:
        folded += [row for row in _unfold(run, first_seq) if row.seq > seq]
        if len(folded) >= limit:
            return folded[:limit]
    found |= {row.seq: row for row in folded}
    return [found[seq] for seq in sorted(found)][:limit]


def rows(run: TrainingRun) -> Iterator[Row]:
    """Every row, oldest first, some thousand at a time."""
    seq = 0
    while page := after(run, seq):
        yield from page
        seq = page[-1].seq


def keys(run: TrainingRun) -> list[str]:
    """Every key that has a point."""
    folded = MetricChunk.objects.filter(run=run).exclude(key__startswith=":").order_by().values_list("key", flat=True).distinct()
    return sorted({*folded, *(key for row in _tail(run) for key in row.values)})


def latest(run: TrainingRun) -> dict[str, float]:
    """The last value of each key."""
    found: dict[str, float] = {}
    for row in _tail(run):
        found |= row.values
    missing = [key for key in keys(run) if key not in found]
    for key in missing:
        chunk = MetricChunk.objects.filter(run=run, key=key).order_by("-first_seq").first()
        if chunk is not None:
            found[key] = float(decode_column(bytes(chunk.data), count=chunk.count).values[-1])
    return found


def last_values(wanted: Mapping[int, str]) -> dict[int, float]:
    """The last value of one key of each run, in two queries however many; runs without their key are left out.
    wanted: keys by the runs' numbers."""
    runs_of: dict[str, list[int]] = {}
    for run_id, key in wanted.items():
        runs_of.setdefault(key, []).append(run_id)
    if not runs_of:
        return {}
    chunks = MetricChunk.objects.filter(_any(Q(key=key, run_id__in=run_ids) for key, run_ids in runs_of.items()))
    newest_chunk = chunks.filter(run=OuterRef("run")).order_by("-first_seq").values("pk")[:1]
    folded = chunks.filter(pk=Subquery(newest_chunk)).order_by().values_list("run_id", "count", "data")
    found = {run_id: float(decode_column(bytes(data), count=count).values[-1]) for run_id, count, data in folded}
    rows = MetricRow.objects.filter(_any(Q(run_id__in=run_ids, values__has_key=key) for key, run_ids in runs_of.items()))
    newest_row = rows.filter(run=OuterRef("run")).order_by("-seq").values("pk")[:1]
    live = rows.filter(pk=Subquery(newest_row)).order_by().values_list("run_id", "values")
    return found | {run_id: float(values[wanted[run_id]]) for run_id, values in live}


def _any(conditions: Iterable[Q]) -> Q:
    return reduce(or_, conditions)


def series(
    run: TrainingRun,
    names: Iterable[str],
    *,
    x: Axis = "step",
    start: float | None = None,
    stop: float | None = None,
    max_points: int = 1500,
) -> dict[str, Series]:
    """Curves for drawing: per key at most `max_points` buckets of what lies in [start, stop] on the chosen axis.

    time: seconds since the run began. tokens: `tokens/total` as last reported at or before the point.
    """
    wanted = list(dict.fromkeys(names))
    steps = (start, stop) if x == "step" else (None, None)
    table = _read(run, wanted, x=x, steps=steps)
    curves = {}
    for name in wanted:
        positions, y = table.columns[name]
        along = table.x[positions]
        inside = np.isfinite(along)
        if start is not None:
            inside &= along >= start
        if stop is not None:
            inside &= along <= stop
        whole = bool(inside.all())
        curves[name] = downsample(along if whole else along[inside], y if whole else y[inside], max_points)
    return curves


def known(run: TrainingRun, steps: Iterable[int]) -> set[tuple[int, str]]:
    """Which (step, key) pairs of these steps have a point already."""
    asked = set(steps)
    found = {
        (step, key)
        for step, values in MetricRow.objects.filter(run=run, step__in=asked).values_list("step", "values")
        for key in values
    }
    if asked:
        overlap = MetricChunk.objects.filter(run=run, key=SEQ, first_step__lte=max(asked), last_step__gte=min(asked))
        for first_seq in overlap.values_list("first_seq", flat=True):
            found |= {(row.step, key) for row in _unfold(run, first_seq) if row.step in asked for key in row.values}
    return found


def fold(run: TrainingRun, *, keep: int = 0) -> int:
    """Move the oldest rows into chunks, FOLD_ROWS to a stretch, each stretch in one transaction; returns how many were folded.
    keep 0 folds all of them; otherwise only full stretches, as long as `keep` rows stay."""
    folded = 0
    while True:
        with transaction.atomic():
            waiting = MetricRow.objects.filter(run=run).count()
            if waiting == 0 or (keep and waiting < FOLD_ROWS + keep):
                return folded
            stretch = _tail(run, limit=FOLD_ROWS)
            MetricChunk.objects.bulk_create(_chunks_of(run, stretch))
            MetricRow.objects.filter(run=run, seq__lte=stretch[-1].seq).delete()
            folded += len(stretch)


def truncate_after(run: TrainingRun, step: int) -> None:
    """Forget every point beyond `step`, folded or not: a resumed run makes them again."""
    with transaction.atomic():
        MetricRow.objects.filter(run=run, step__gt=step).delete()
        cut = MetricChunk.objects.filter(run=run, last_step__gt=step)
        for first_seq in list(cut.filter(key=SEQ).values_list("first_seq", flat=True)):
            kept = [row for row in _unfold(run, first_seq) if row.step <= step]
            MetricChunk.objects.filter(run=run, first_seq=first_seq).delete()
            if kept:
                MetricChunk.objects.bulk_create(_chunks_of(run, kept))


def _tail(run: TrainingRun, condition: Q | None = None, limit: int | None = None) -> list[Row]:
    found = MetricRow.objects.filter(condition or Q(), run=run).order_by("seq").values_list("seq", "step", "at", "values")
    return [Row(seq, step, at, {key: float(value) for key, value in values.items()}) for seq, step, at, values in found[:limit]]


def _chunks_of(run: TrainingRun, stretch: Sequence[Row]) -> list[MetricChunk]:
    positions: dict[str, list[int]] = {}
    values: dict[str, list[float]] = {}
    for position, row in enumerate(stretch):
        for key, value in row.values.items():
            positions.setdefault(key, []).append(position)
            values.setdefault(key, []).append(value)
    seq, step = (np.array([row[column] for row in stretch], dtype=np.int64) for column in (0, 1))
    at = np.array([row.at.timestamp() for row in stretch])
    encoded = {
        SEQ: (len(stretch), encode_integers(seq)),
        STEP: (len(stretch), encode_integers(step)),
        AT: (len(stretch), at.astype("<f8").tobytes()),
    }
    for key, where in positions.items():
        column = Column(np.array(where, dtype=np.int64), np.array(values[key], dtype=np.float64))
        encoded[key] = (len(where), encode_column(column, num_rows=len(stretch)))
    return [
        MetricChunk(
            run_id=run.pk,
            key=key,
            first_seq=int(seq[0]),
            last_seq=int(seq[-1]),
            first_step=int(step.min()),
            last_step=int(step.max()),
            count=count,
            data=data,
        )
        for key, (count, data) in encoded.items()
    ]


def _unfold(run: TrainingRun, first_seq: int) -> list[Row]:
    chunks = {chunk.key: chunk for chunk in MetricChunk.objects.filter(run=run, first_seq=first_seq)}
    if SEQ not in chunks:  # truncated a moment ago
        return []
    count = chunks[SEQ].count
    seqs = decode_integers(bytes(chunks.pop(SEQ).data), first=first_seq, count=count).tolist()
    step_chunk = chunks.pop(STEP)
    steps = decode_integers(bytes(step_chunk.data), first=step_chunk.first_step, count=count).tolist()
    times = np.frombuffer(bytes(chunks.pop(AT).data), "<f8").tolist()
    values: list[dict[str, float]] = [{} for _ in range(count)]
    for key, chunk in chunks.items():
        column = decode_column(bytes(chunk.data), count=chunk.count)
        for position, value in zip(column.positions.tolist(), column.values.tolist(), strict=True):
            values[position][key] = value
    stamps = (datetime.fromtimestamp(time, UTC) for time in times)
    return [Row(*row) for row in zip(seqs, steps, stamps, values, strict=True)]


class _Table(NamedTuple):
    """x: one value a row, chunks first, then the rows not folded. columns: by key, positions into x."""

    x: Floats
    columns: dict[str, Column]


def _read(run: TrainingRun, names: Sequence[str], *, x: Axis, steps: tuple[float | None, float | None] = (None, None)) -> _Table:
    fetched = [*names, TOKENS] if x == "tokens" else list(names)
    tail = _tail(run)
    axes, parts, num_folded, last_seq = _read_chunks(run, fetched, AT if x == "time" else STEP, steps)
    tail = [row for row in tail if row.seq > last_seq]
    columns = {}
    for name in fetched:
        where = [index for index, row in enumerate(tail) if name in row.values]
        column = Column(np.array(where, dtype=np.int64) + num_folded, np.array([tail[index].values[name] for index in where]))
        columns[name] = Column(*(np.concatenate(both) for both in zip(*parts[name], column, strict=True)))
    if x == "time":
        began = (run.started_at or run.created_at).timestamp()
        return _Table(np.concatenate([*axes, [row.at.timestamp() for row in tail]]) - began, columns)
    along = np.concatenate([*axes, np.array([row.step for row in tail], dtype=np.float64)])
    return _Table(along if x == "step" else _last_known(columns[TOKENS], len(along)), columns)


def _read_chunks(
    run: TrainingRun, names: Sequence[str], axis: str, steps: tuple[float | None, float | None]
) -> tuple[list[Floats], dict[str, list[Column]], int, int]:
    """The axis of every stretch, the columns by key with positions counted over all stretches, rows and newest seq of them."""
    chunks = MetricChunk.objects.filter(run=run, key__in=[axis, *names]).order_by("first_seq")
    if steps[0] is not None and abs(steps[0]) < MAX_STEP:
        chunks = chunks.filter(last_step__gte=steps[0])
    if steps[1] is not None and abs(steps[1]) < MAX_STEP:
        chunks = chunks.filter(first_step__lte=steps[1])
    stretches: dict[int, dict[str, tuple[int, int, bytes]]] = {}
    last_seq = 0
    for key, first_seq, last_of_stretch, first_step, count, data in chunks.values_list(
        "key", "first_seq", "last_seq", "first_step", "count", "data"
    ):
        stretches.setdefault(first_seq, {})[key] = (first_step, count, bytes(data))
        last_seq = last_of_stretch
    axes: list[Floats] = []
    parts: dict[str, list[Column]] = {name: [] for name in names}
    num_rows = 0
    for columns in stretches.values():
        first_step, count, data = columns.pop(axis)
        along = np.frombuffer(data, "<f8") if axis == AT else decode_integers(data, first=first_step, count=count)
        axes.append(along.astype(np.float64))
        for key, (_, num_values, values) in columns.items():
            column = decode_column(values, count=num_values)
            parts[key].append(Column(column.positions + num_rows, column.values))
        num_rows += count
    return axes, parts, num_rows, last_seq


def _last_known(column: Column, num_rows: int) -> Floats:
    """The column's last value at or before each row; NaN before the first."""
    if not len(column.positions):
        return np.full(num_rows, np.nan)
    index = np.searchsorted(column.positions, np.arange(num_rows), side="right") - 1
    return np.where(index >= 0, column.values[np.maximum(index, 0)], np.nan)
