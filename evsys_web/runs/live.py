"""What a viewer of a run's live stream is sent, as events; the streaming itself is `sse.py`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404

from evsys_web import sse
from evsys_web.accounts.models import User
from evsys_web.runs import metrics
from evsys_web.runs.chunks import plain
from evsys_web.runs.models import Checkpoint, EventKind, RunEvent, TrainingRun
from evsys_web.sse import Frame, News, frame

PAGE_SIZE = 1000


def live(request: HttpRequest, pk: int) -> HttpResponseBase:
    """The page's stream (`runs:live`)."""
    assert isinstance(request.user, User)  # LoginRequiredMiddleware saw to it
    return stream(request, get_object_or_404(TrainingRun.objects.visible_to(request.user), pk=pk))


def stream(request: HttpRequest, run: TrainingRun) -> HttpResponseBase:
    """The run's events after what the viewer has seen. 204 tells a browser not to come back: it saw all of an ended run."""
    seen = sse.last_event_id(request)
    if run.has_ended and seen >= run.last_seq > 0:
        sse.release_connections()
        return HttpResponse(status=204)
    return sse.response(_readers.stream(run.pk, seen))


def read_news(cursors: Mapping[int, int]) -> dict[int, News]:
    """For each run: everything with a number beyond its cursor, in order, and its status."""
    news = {}
    for run in TrainingRun.objects.filter(pk__in=cursors).defer("config", "error_detail"):
        seq = cursors[run.pk]
        frames = _frames_after(run, seq) if run.last_seq > seq else []
        more = len(frames) == PAGE_SIZE
        cursor = frames[-1].seq if more else max(seq, run.last_seq)
        news[run.pk] = News(cursor, frames, frame("status", status_of(run)), more=more, ended=run.has_ended)
    return news


def status_of(run: TrainingRun) -> dict[str, Any]:
    return {
        "status": run.status,
        "label": run.get_status_display(),
        "step": run.step,
        "num_steps": run.num_steps,
        "attempt": run.attempt,
        "stop_requested": bool(run.stop_requested),
        "started_at": run.started_at and run.started_at.isoformat(),
        "finished_at": run.finished_at and run.finished_at.isoformat(),
        "error": run.error,
    }


def _frames_after(run: TrainingRun, seq: int) -> list[Frame]:
    """One page, oldest first. Nothing newer than the row's `last_seq`: of that, a later query might know the second half only."""
    new = Q(seq__gt=seq, seq__lte=run.last_seq)
    frames = [frame("metrics", row_of(row), seq=row.seq) for row in metrics.after(run, seq, limit=PAGE_SIZE)]
    frames += [_event_frame(event) for event in run.events.filter(new).order_by("seq")[:PAGE_SIZE]]
    frames += [_checkpoint_frame(saved) for saved in run.checkpoints.filter(new).order_by("seq")[:PAGE_SIZE]]
    return sorted((each for each in frames if each.seq <= run.last_seq), key=lambda each: each.seq)[:PAGE_SIZE]


def row_of(row: metrics.Row) -> dict[str, Any]:
    values = {key: plain(value) for key, value in row.values.items()}
    return {"seq": row.seq, "step": row.step, "at": row.at.isoformat(), "values": values}


def _event_frame(event: RunEvent) -> Frame:
    data = {"seq": event.seq, "at": event.at.isoformat(), "level": event.level, "step": event.step, "message": event.message}
    return frame("rewind" if event.kind == EventKind.REWIND else "event", data, seq=event.seq)


def _checkpoint_frame(saved: Checkpoint) -> Frame:
    data = {"seq": saved.seq, "id": saved.pk, "name": saved.name, "step": saved.step, "at": saved.created_at.isoformat()}
    return frame("checkpoint", data, seq=saved.seq)


_readers = sse.Readers(read_news)
