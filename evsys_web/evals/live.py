"""What a viewer of an eval run's live stream is sent: changed tasks in bundles, events, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_safe

from evsys_web import sse
from evsys_web.accounts.models import User
from evsys_web.evals.models import EvalEvent, EvalRun
from evsys_web.runs.live import news_of, standing_of, stream_of
from evsys_web.sse import Frame, News, frame

PAGE_SIZE = 1000
COLUMNS = ("position", "outcome", "n", "num_correct", "num_errors", "accuracy", "sum_reward")


@require_safe
def live(request: HttpRequest, pk: int) -> HttpResponseBase:
    """The page's stream (`evals:live`)."""
    assert isinstance(request.user, User)  # LoginRequiredMiddleware saw to it
    return stream(request, get_object_or_404(EvalRun.objects.visible_to(request.user), pk=pk))


def stream(request: HttpRequest, run: EvalRun) -> HttpResponseBase:
    """The eval run's events after what the viewer has seen."""
    return stream_of(request, run, _readers)


def read_news(cursors: Mapping[int, int]) -> dict[int, News]:
    """For each eval run: the tasks that changed beyond its cursor as they are now, the events, and its status."""
    runs = EvalRun.objects.filter(pk__in=cursors).defer("config", "error_detail")
    return news_of(runs, cursors, frames_after=_frames_after, status_of=status_of)


def status_of(run: EvalRun) -> dict[str, Any]:
    """avg: the running share right with its interval, None while there is no verdict."""
    return {
        **standing_of(run),
        "num_tasks": run.num_tasks,
        "num_attempts": run.num_attempts,
        "num_done": run.num_done,
        "num_errors": run.num_errors,
        "avg": run.summary.get("avg"),
    }


def _frames_after(run: EvalRun, seq: int) -> tuple[list[Frame], bool]:
    """One page. A task that changed twice comes once, as it is now; one bundle stands for the tasks of a page."""
    changed = list(run.tasks.filter(seq__gt=seq, seq__lte=run.last_seq).order_by("seq").values("seq", *COLUMNS)[:PAGE_SIZE])
    more = len(changed) == PAGE_SIZE
    last = changed[-1]["seq"] if more else run.last_seq
    events = run.events.filter(seq__gt=seq, seq__lte=last).order_by("seq")
    frames = [_event_frame(event) for event in events]
    if changed:
        rows = [{name: row[name] for name in COLUMNS} for row in changed]
        frames.append(frame("tasks", {"tasks": rows}, seq=changed[-1]["seq"]))
    return sorted(frames, key=lambda each: each.seq), more


def _event_frame(event: EvalEvent) -> Frame:
    data = {"seq": event.seq, "at": event.at.isoformat(), "level": event.level, "message": event.message}
    return frame("event", data, seq=event.seq)


_readers = sse.Readers(read_news)
