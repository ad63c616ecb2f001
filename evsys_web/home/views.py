"""The dashboard, and the search behind Ctrl-K. Reads cycles, runs, evals and datasets; writes nothing but the starter dataset."""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from datetime import timedelta
from typing import NamedTuple

from django.core.exceptions import RequestDataTooBig
from django.db.models import Case, Count, Q, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.timezone import now
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from evsys_web.accounts.models import User
from evsys_web.accounts.permissions import editors_only
from evsys_web.accounts.views import signed_in
from evsys_web.cycles.models import Cycle
from evsys_web.datasets.actions import import_starter_rows
from evsys_web.datasets.models import Dataset
from evsys_web.evals.models import EvalRun
from evsys_web.outages import RETRY_AFTER, is_database_away, is_full_disk
from evsys_web.runs.models import ACTIVE, Status, TrainingRun
from evsys_web.runs.work import WorkQuerySet


class Destination(NamedTuple):
    label: str
    url_name: str
    icon: str


SHOWN = 8
SHOWN_CYCLES = 3
DESTINATIONS = (
    Destination("Home", "home:dashboard", "home"),
    Destination("Runs", "runs:list", "runs"),
    Destination("New run", "runs:new", "plus"),
    Destination("Sweeps", "sweeps:list", "sweep"),
    Destination("New sweep", "sweeps:new", "plus"),
    Destination("Evals", "evals:list", "evals"),
    Destination("New eval", "evals:new", "plus"),
    Destination("Checkpoints", "checkpoints:list", "checkpoint"),
    Destination("Cycles", "cycles:list", "cycles"),
    Destination("New cycle", "cycles:new", "plus"),
    Destination("Queue", "queue:queue", "queue"),
    Destination("Curation", "curation:list", "filter"),
    Destination("New curation", "curation:new", "plus"),
    Destination("Datasets", "datasets:list", "datasets"),
    Destination("Upload a dataset", "datasets:upload", "upload"),
    Destination("API tokens", "accounts:tokens", "key"),
    Destination("Credentials", "accounts:credentials", "key"),
    Destination("Notifications", "notifications:channels", "bell"),
    Destination("API docs", "api:openapi-view", "api"),
    Destination("Your account", "accounts:profile", "user"),
)
BROKEN = (Status.FAILED, Status.CRASHED)


@require_safe
@vary_on_headers("HX-Request")
def dashboard(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    runs = TrainingRun.objects.visible_to(user).select_related("project").defer("error_detail")
    evals = EvalRun.objects.visible_to(user)
    context = {
        "counts": _counts(runs, evals),
        "cycles": _cycles_shown(user),
        "live": list(runs.filter(status__in=(*ACTIVE, Status.QUEUED)).newest_first()[:SHOWN]),
        "ended": list(runs.exclude(status__in=(*ACTIVE, Status.QUEUED)).newest_first()[:SHOWN]),
        "evals": list(evals.select_related("benchmark").defer("error_detail", "config").newest_first()[:SHOWN]),
        "datasets": list(Dataset.objects.visible_to(user).with_summary().order_by("-created_at")[:SHOWN]),
        "submission_key": uuid.uuid4().hex,
    }
    template = "home/_live.html" if request.htmx else "home/dashboard.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _counts(*kinds: WorkQuerySet) -> Counter[str]:
    """Runs and evals together: a person asks how much work there is, not of which kind."""
    week = now() - timedelta(days=7)
    total: Counter[str] = Counter()
    for work in kinds:
        total.update(
            work.aggregate(
                running=Count("pk", filter=Q(status__in=ACTIVE)),
                queued=Count("pk", filter=Q(status=Status.QUEUED)),
                finished=Count("pk", filter=Q(status=Status.COMPLETED, finished_at__gte=week)),
                broken=Count("pk", filter=Q(status__in=BROKEN, finished_at__gte=week)),
            )
        )
    return total


def _cycles_shown(user: User) -> list[Cycle]:
    """Those under way first, then the newest others."""
    is_live = Case(When(status__in=(*ACTIVE, Status.QUEUED), then=0), default=1)
    return list(Cycle.objects.visible_to(user).with_parts().defer("error_detail").order_by(is_live, "-created_at")[:SHOWN_CYCLES])


@require_POST
@editors_only
def starter(request: HttpRequest) -> HttpResponse:
    """The bundled rows as a dataset (the same one when asked again), then the form to train on them."""
    user = signed_in(request)
    version = import_starter_rows(user.default_project(), user)
    return redirect(f"{reverse('runs:new')}?{urlencode({'dataset_version': version.pk})}")


@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """Cycles, runs, evals and datasets whose name contains every word, and pages; without words the newest of each."""
    user = signed_in(request)
    cycles = Cycle.objects.visible_to(user).newest_first()
    runs = TrainingRun.objects.visible_to(user).newest_first()
    evals = EvalRun.objects.visible_to(user).newest_first()
    datasets = Dataset.objects.visible_to(user).order_by("-created_at")
    words = request.GET.get("q", "").replace("\0", "").split()[:8]
    for word in words:
        cycles = cycles.filter(name__icontains=word)
        runs = runs.filter(name__icontains=word)
        evals = evals.filter(name__icontains=word)
        datasets = datasets.filter(name__icontains=word)
    context = {
        "words": " ".join(words),
        "cycles": list(cycles.only("pk", "name", "status")[:SHOWN]),
        "runs": list(runs.only("pk", "name", "status")[:SHOWN]),
        "evals": list(evals.only("pk", "name", "status")[:SHOWN]),
        "datasets": list(datasets.only("pk", "name")[:SHOWN]),
        "pages": [page for page in DESTINATIONS if all(word.lower() in page.label.lower() for word in words)],
    }
    return render(request, "home/_search.html", context)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What cannot be read at all; a form with more than 10 MB of text is by far the likeliest."""
    too_big = isinstance(exception, RequestDataTooBig)
    return render(request, "400.html", {"too_big": too_big}, status=413 if too_big else 400)


def broken(request: HttpRequest) -> HttpResponse:
    """What nobody foresaw, but for a database that is away or a disk that is full: they pass, and whoever waits may know. Drawn
    without the request, whose person would be looked up in the database."""
    error = sys.exc_info()[1]
    if is_full_disk(error):
        return HttpResponse(render_to_string("507.html"), status=507)
    if is_database_away(error):
        return HttpResponse(render_to_string("503.html"), status=503, headers={"Retry-After": RETRY_AFTER})
    return HttpResponse(render_to_string("500.html"), status=500)
