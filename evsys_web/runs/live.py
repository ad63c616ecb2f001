"""What a viewer of a run's live stream is sent, as events, and what of that all work shares; the streaming is `sse.py`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_safe

from evsys_web import sse
from evsys_web.accounts.models import User
from evsys_web.accounts.presence import still_here
from evsys_web.runs import metrics
from evsys_web.runs.chunks import plain
from evsys_web.runs.models import Checkpoint, EventKind, RunEvent, TrainingRun
from evsys_web.runs.work import Work, WorkQuerySet
from evsys_web.sse import Frame, News, frame

PAGE_SIZE = 1000
AnyWork = TypeVar("AnyWork", bound=Work)


@require_safe
def live(request: HttpRequest, pk: int) -> HttpResponseBase:
    """The page's stream (`runs:live`)."""
    assert isinstance(request.user, User)  # LoginRequiredMiddleware saw to it
    return stream(request, get_object_or_404(TrainingRun.objects.visible_to(request.user), pk=pk))


def stream(request: HttpRequest, run: TrainingRun) -> HttpResponseBase:
    """The run's events after what the viewer has seen."""
    return stream_of(request, run, _readers)


def read_news(cursors: Mapping[int, int]) -> dict[int, News]:
    """For each run: everything with a number beyond its cursor, in order, and its status."""
    runs = TrainingRun.objects.filter(pk__in=cursors).defer("config", "error_detail")
    return news_of(runs, cursors, frames_after=_frames_after, status_of=status_of)


def stream_of(request: HttpRequest, work: Work, readers: sse.Readers) -> HttpResponseBase:
    """Any work's events after what the viewer has seen. 204 tells a browser not to come back: it saw all of an ended run."""
    seen = sse.last_event_id(request)
    if work.has_ended and seen >= work.last_seq > 0:
        sse.release_connections()
        return HttpResponse(status=204)
    is_here = still_here(request)

    def may_watch() -> bool:
        user = is_here()
        return user is not None and WorkQuerySet(type(work)).visible_to(user).filter(pk=work.pk).exists()

    return sse.response(readers.stream(work.pk, seen, may_watch))


def news_of(
    works: Iterable[AnyWork],
    cursors: Mapping[int, int],
    *,
    frames_after: Callable[[AnyWork, int], tuple[list[Frame], bool]],
    status_of: Callable[[AnyWork], dict[str, Any]],
) -> dict[int, News]:
    """frames_after(work, seq): one page beyond seq, in order, up to the work's `last_seq`, and whether there is a further one."""
    news = {}
    for work in works:
        seq = cursors[work.pk]
        frames, more = frames_after(work, seq) if work.last_seq > seq else ([], False)
        cursor = frames[-1].seq if more else max(seq, work.last_seq)
        news[work.pk] = News(cursor, frames, frame("status", status_of(work)), more=more, ended=work.has_ended)
    return news


def standing_of(work: Work) -> dict[str, Any]:
    """What the status of any work says."""
    return {
        "status": work.status,
        "label": work.get_status_display(),
        "attempt": work.attempt,
        "stop_requested": bool(work.stop_requested),
        "started_at": work.started_at and work.started_at.isoformat(),
        "finished_at": work.finished_at and work.finished_at.isoformat(),
        "error": work.error,
    }


def status_of(run: TrainingRun) -> dict[str, Any]:
    return {**standing_of(run), "step": run.step, "num_steps": run.num_steps}


def _frames_after(run: TrainingRun, seq: int) -> tuple[list[Frame], bool]:
    """One page, oldest first. Nothing newer than the row's `last_seq`: of that, a later query might know the second half only."""
    new = Q(seq__gt=seq, seq__lte=run.last_seq)
    frames = [frame("metrics", row_of(row), seq=row.seq) for row in metrics.after(run, seq, limit=PAGE_SIZE)]
    frames += [_event_frame(event) for event in run.events.filter(new).order_by("seq")[:PAGE_SIZE]]
    frames += [_checkpoint_frame(saved) for saved in run.checkpoints.filter(new).order_by("seq")[:PAGE_SIZE]]
    page = sorted((each for each in frames if each.seq <= run.last_seq), key=lambda each: each.seq)[:PAGE_SIZE]
    return page, len(page) == PAGE_SIZE


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
