"""What can happen to the work of the apps below, read from their rows: nobody below knows that somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import F, Q, QuerySet
from django.utils.timezone import now

from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.models import Cycle
from evsys_web.evals.models import EvalRun
from evsys_web.evals.templatetags.eval_numbers import interval, percent
from evsys_web.notifications.models import Event
from evsys_web.runs.models import EXPIRES_SOON, Checkpoint, RunEvent, TrainingRun
from evsys_web.runs.status import Status
from evsys_web.runs.work import Tracked
from recipes.loop import LOSS_IS_NO_NUMBER

ENDS = {Status.COMPLETED: Event.FINISHED, Status.FAILED: Event.FAILED, Status.CRASHED: Event.CRASHED}
"""A cancelled run is no news to whoever cancelled it."""
MADE_HERE = Q(finished_at__gt=F("created_at") - timedelta(seconds=1))
"""What ended before it was made was brought in."""


class Happening(NamedTuple):
    """key: the same for the same happening, whenever it is looked at; work that ends again later has another."""

    key: str
    event: Event
    project_id: int
    subject_kind: str
    subject: Any
    sentence: str
    occurred_at: datetime


class Source(NamedTuple):
    """A kind of work. rows: those that are news when they end; finished: the sentence for a good end."""

    kind: str
    rows: Callable[[], QuerySet[Any]]
    finished: Callable[[Any], str]


def happened_since(since: datetime, projects: Collection[int]) -> Iterator[Happening]:
    """Everything that happened in these projects since then."""
    for source in SOURCES:
        ended = source.rows().filter(MADE_HERE, project__in=projects, finished_at__gt=since, status__in=ENDS)
        for row in ended.defer("error_detail").order_by("finished_at")[:LIMIT]:
            yield _end_of(source, row)
    yield from _losses_that_are_no_number(since, projects)
    yield from _checkpoints_that_expire(since, projects)


LIMIT = 1000
"""Of each kind in one sweep; the next one finds what is left."""


def _end_of(source: Source, row: Tracked) -> Happening:
    event = ENDS[Status(row.status)]
    at = row.finished_at
    assert at is not None
    sentence = source.finished(row) if event is Event.FINISHED else row.error or f"It {event.label.lower()} without saying why."
    return Happening(f"{source.kind}:{row.pk}:{event}:{at.timestamp():.6f}", event, _project(row), source.kind, row, sentence, at)


def _losses_that_are_no_number(since: datetime, projects: Collection[int]) -> Iterator[Happening]:
    """The loop warns once each time that the loss stops being a number; the recorder keeps the warning as an event."""
    lately = Q(run__finished_at=None) | Q(run__finished_at__gt=since)
    warned = RunEvent.objects.filter(
        lately, run__project__in=projects, level="warning", at__gt=since, message__startswith=LOSS_IS_NO_NUMBER
    )
    for event in warned.select_related("run").defer("run__config", "run__error_detail").order_by("at")[:LIMIT]:
        key = f"run:{event.run_id}:{Event.NAN_LOSS}:{event.seq}"
        yield Happening(key, Event.NAN_LOSS, event.run.project_id, "run", event.run, event.message, event.at)


def _checkpoints_that_expire(since: datetime, projects: Collection[int]) -> Iterator[Happening]:
    """The first of a run's, EXPIRES_SOON before it goes. What was saved for less than that is gone as somebody wished."""
    saved = Checkpoint.objects.filter(
        run__project__in=projects,
        expires_at__gt=since + EXPIRES_SOON,
        expires_at__lte=now() + EXPIRES_SOON,
        created_at__lt=F("expires_at") - EXPIRES_SOON,
    )
    for checkpoint in saved.select_related("run").defer("run__config", "run__error_detail").order_by("-expires_at")[:LIMIT]:
        run, expires = checkpoint.run, checkpoint.expires_at
        assert expires is not None
        sentence = (
            f"Its checkpoint {checkpoint.name} expires on {expires:%d %B %Y, %H:%M} UTC. Evaluate it or go on from it before."
        )
        key = f"run:{run.pk}:{Event.EXPIRING}"
        yield Happening(key, Event.EXPIRING, run.project_id, "run", run, sentence, expires - EXPIRES_SOON)


def _project(row: Any) -> int:
    return int(row.project_id)


def _run_finished(run: TrainingRun) -> str:
    return f"Finished after {run.step:,} step{'' if run.step == 1 else 's'}."


def _eval_finished(run: EvalRun) -> str:
    avg = run.summary.get("avg")
    if not avg:
        return "Finished without a verdict: every attempt ended in an error." if run.num_errors else "Finished."
    return f"Finished: right in {percent(avg['value'])} of attempts (95 % interval {interval(avg)}), k = {run.k}."


def _cycle_finished(cycle: Cycle) -> str:
    return answer_of(cycle).sentence


ALONE = Q(baseline_of=None, learned_in=None, judged_in=None)
"""Of evals: no part of a cycle, which tells its own end."""

SOURCES = (
    Source("run", lambda: TrainingRun.objects.filter(cycle_rounds=None), _run_finished),
    Source("eval", lambda: EvalRun.objects.filter(ALONE, is_imported=False), _eval_finished),
    Source("cycle", Cycle.objects.with_parts, _cycle_finished),
)
