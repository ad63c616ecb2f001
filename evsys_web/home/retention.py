"""What may go after a while, if settings.KEEP_DAYS says so: points, samples and checkpoints of runs that ended long ago.

Nothing goes of a run that anything stands on: that is part of a cycle, whose weights were evaluated, pushed, exported or trained
on, or that is still to be done. The last checkpoint of a run stays, so that it can be resumed, evaluated and downloaded; the run,
its settings, events and numbers at the end stay, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils.timezone import now

from evsys_web.checkpoints.actions import remove_checkpoint
from evsys_web.checkpoints.dependents import begun_from, pointing_at
from evsys_web.checkpoints.models import Export
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.downloads import checkpoint_bytes
from evsys_web.runs.models import ENDED, Checkpoint, MetricChunk, MetricRow, TrainingRun
from recipes.callbacks import METRICS_FILE
from recipes.rollout_log import ROLLOUTS_FILE


class Removal(NamedTuple):
    """num_bytes: of files; None where nobody knows. `remove` is not called in a dry run."""

    kind: str
    run: TrainingRun
    name: str
    num_bytes: int | None
    remove: Callable[[], None]


def removals(keep_days: dict[str, int]) -> Iterator[Removal]:
    """What is too old, oldest runs first. keep_days: as settings.KEEP_DAYS; 0 keeps all of that kind."""
    for kind, find in {"metrics": _points, "rollouts": _rollouts, "checkpoints": _checkpoints}.items():
        if days := keep_days.get(kind, 0):
            yield from find(days)


def prune(keep_days: dict[str, int] | None = None) -> int:
    """Remove it all; returns how many things went. Safe to run twice, and beside workers."""
    count = 0
    for removal in removals(settings.KEEP_DAYS if keep_days is None else keep_days):
        try:
            removal.remove()
        except RunRefused:  # somebody began to use it a moment ago
            continue
        count += 1
    return count


def is_stood_on(run: TrainingRun) -> bool:
    """Something was made from it, or is being made."""
    if any(rows.exists() for _, rows in pointing_at(run)):
        return True
    return any(_is_used(checkpoint) for checkpoint in run.checkpoints.all())


def _is_used(checkpoint: Checkpoint) -> bool:
    return (
        Export.objects.filter(checkpoint=checkpoint).exists()
        or begun_from(checkpoint).exists()
        or any(rows.exists() for _, rows in pointing_at(checkpoint))
    )


def _ended_before(days: int) -> Iterator[TrainingRun]:
    """By so many days or more. Each is read anew when its turn comes: it may have been resumed, or deleted, since. The list is
    read to its end first: a SELECT that is still open would keep SQLite from beginning to write on the same connection."""
    ended = TrainingRun.objects.filter(status__in=ENDED, finished_at__lt=now() - timedelta(days=days))
    for pk in list(ended.order_by("finished_at", "pk").values_list("pk", flat=True)):
        if (run := ended.filter(pk=pk).first()) is not None:
            yield run


def _points(days: int) -> Iterator[Removal]:
    having = [Exists(model.objects.filter(run=OuterRef("pk"))) for model in (MetricRow, MetricChunk)]
    with_points = set(TrainingRun.objects.filter(having[0] | having[1]).values_list("pk", flat=True))
    for run in _ended_before(days):
        num_bytes = _size_of(run.output_dir / METRICS_FILE)
        if (run.pk in with_points or num_bytes is not None) and not is_stood_on(run):
            yield Removal("metrics", run, "all points", num_bytes, partial(_forget_points, run, days))


def _forget_points(run: TrainingRun, days: int) -> None:
    with transaction.atomic():
        ended = _locked(run)
        MetricRow.objects.filter(run=run).delete()
        MetricChunk.objects.filter(run=run).delete()
        ended.note(f"The points were deleted: they are kept for {days} days.")
        (run.output_dir / METRICS_FILE).unlink(missing_ok=True)


def _size_of(path: Path) -> int | None:
    """None where there is none, or another worker deleted it a moment ago."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _locked(run: TrainingRun) -> TrainingRun:
    """Within a transaction: nobody resumes it until that ends. Raises RunRefused when somebody did."""
    ended: TrainingRun | None = TrainingRun.objects.select_for_update().filter(pk=run.pk, status__in=ENDED).first()
    if ended is None:
        raise RunRefused("It runs again.")
    return ended


def _rollouts(days: int) -> Iterator[Removal]:
    for run in _ended_before(days):
        if is_stood_on(run):
            continue
        if (num_bytes := _size_of(run.output_dir / ROLLOUTS_FILE)) is not None:
            yield Removal("rollouts", run, ROLLOUTS_FILE, num_bytes, partial(_forget_rollouts, run))


def _forget_rollouts(run: TrainingRun) -> None:
    with transaction.atomic():
        _locked(run)
        (run.output_dir / ROLLOUTS_FILE).unlink(missing_ok=True)


def _checkpoints(days: int) -> Iterator[Removal]:
    """All but the last of each run, by age of the run's end; those that something stands on stay."""
    for run in _ended_before(days):
        if any(rows.exists() for _, rows in pointing_at(run)):
            continue
        for checkpoint in list(run.checkpoints.order_by("-step", "-pk"))[1:]:
            if _is_used(checkpoint):
                continue
            try:
                num_bytes = checkpoint_bytes(checkpoint)
            except FileNotFoundError:  # another worker is deleting it
                continue
            yield Removal("checkpoints", run, checkpoint.name, num_bytes, partial(remove_checkpoint, checkpoint))
