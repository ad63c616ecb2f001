"""The columns of a large eval are read once it has ended, before somebody asks: their first preview would wait for that, eight
seconds and more for 160,000 attempts."""

from __future__ import annotations

from datetime import datetime, timedelta

from celery import shared_task
from django.utils.timezone import now

from evsys_web.curation.columns import FILE_FROM, are_filed, columns_of
from evsys_web.evals.models import EvalRun

ENDED_WITHIN = timedelta(hours=1)
_asked: dict[int, datetime | None] = {}
"""By run, the end after which this process asked: on a disk of its own it would otherwise ask again and again."""


@shared_task
def prepare_columns(run_id: int) -> None:
    run = EvalRun.objects.filter(pk=run_id).first()
    if run is not None and run.has_ended:
        columns_of(run)


def sweep(worker: str) -> None:
    """Ask for those of evals that ended a moment ago; two workers that ask do no harm."""
    ended = EvalRun.objects.filter(finished_at__gt=now() - ENDED_WITHIN, num_done__gte=FILE_FROM).defer("config", "summary")
    due = [run for run in ended if run.has_ended and _asked.get(run.pk) != run.finished_at and not are_filed(run)]
    for run in due:
        _asked[run.pk] = run.finished_at
        prepare_columns.delay(run.pk)
