"""Pages about runs that exist: list, run, comparison, and the small answers their scripts ask for."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, get_args

from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from evsys_web.accounts.models import User
from evsys_web.accounts.views import signed_in
from evsys_web.runs import metrics
from evsys_web.runs.actions import delete_run, resume_run, stop_run
from evsys_web.runs.comparison import compare_configs
from evsys_web.runs.downloads import checkpoint_bytes, checkpoint_download, metrics_csv
from evsys_web.runs.headlines import chart_order, headline_of, with_headlines
from evsys_web.runs.models import Checkpoint, TrainingRun
from evsys_web.runs.rollouts import offers_samples
from evsys_web.runs.sanity import sanity
from evsys_web.runs.snippets import curl_for, yaml_of
from evsys_web.runs.work_pages import act, list_context, searched, yaml_file
from recipes.config import RunConfig
from recipes.errors import CheckpointError

EVENTS_SHOWN = 500
MAX_KEYS = 200
MAX_COMPARED = 8


class Saved(NamedTuple):
    """num_bytes is None for weights that are not on this machine. shown: its headline and its evals."""

    checkpoint: Checkpoint
    num_bytes: int | None
    shown: list[tuple[str, float | str]]


@require_safe
@vary_on_headers("HX-Request")
def run_list(request: HttpRequest) -> HttpResponse:
    runs = TrainingRun.objects.visible_to(signed_in(request))
    for word in searched(request):
        runs = runs.filter(
            Q(name__icontains=word) | Q(dataset_reference__icontains=word) | Q(config__model__name__icontains=word)
        )
    rows = TrainingRun.objects.select_related("dataset_version__dataset").defer("error_detail")
    context = list_context(request, runs, rows)
    context["listed"] = with_headlines(context["listed"])
    template = "runs/_run_table.html" if request.htmx else "runs/list.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@require_safe
def run_detail(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    last_seq = run.last_seq
    keys = chart_order(metrics.keys(run), [headline_of(run)])
    context = {
        **_header(run),
        "chart_runs": [chart_run(run)],
        "chart_keys": keys,
        "headline_keys": headline_of(run).key,
        "last_seq": last_seq,
        "samples": offers_samples(run),
        "signals": sanity(run, keys),
        "checkpoints": _saved(run),
        "begun_from": begun_from(run, signed_in(request)),
        "events": run.events.order_by("-seq")[:EVENTS_SHOWN],
        "clones": run.clones.order_by("-pk")[:20],
        "continued": continued_from(run, signed_in(request)),
        "config_yaml": yaml_of(RunConfig, run.config),
        "curl": curl_for(request, "runs", run.config),
    }
    return render(request, "runs/detail.html", context)


@require_safe
def run_header(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "runs/_header.html", _header(found(request, pk)))


@require_safe
def run_checkpoints(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return render(request, "runs/_checkpoints.html", {"run": run, "checkpoints": _saved(run)})


@require_safe
def download_checkpoint(request: HttpRequest, pk: int, checkpoint_pk: int) -> HttpResponseBase:
    """All files to sample from or go on with, as a zip."""
    run = found(request, pk)
    checkpoint = get_object_or_404(run.checkpoints.select_related("run"), pk=checkpoint_pk)
    try:
        return checkpoint_download(checkpoint)
    except CheckpointError as error:
        messages.error(request, str(error))
        return redirect(f"{run.get_absolute_url()}#checkpoints")


@require_safe
def download_metrics(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Every point of the run, a column per key."""
    return metrics_csv(found(request, pk))


@require_safe
def run_events(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return render(request, "runs/_events.html", {"run": run, "events": run.events.order_by("-seq")[:EVENTS_SHOWN]})


@require_safe
def run_series(request: HttpRequest, pk: int) -> JsonResponse:
    """Curves for drawing, and the names of all that there are. `last_seq` is read first: the stream may repeat what is in them,
    never miss anything."""
    run = found(request, pk)
    x = request.GET.get("x", "step")
    curves = metrics.series(
        run,
        request.GET.getlist("key")[:MAX_KEYS],
        x=x if x in get_args(metrics.Axis) else "step",  # type: ignore[arg-type]
        start=_number(request.GET.get("start")),
        stop=_number(request.GET.get("stop")),
        max_points=int(min(5000, max(10, _number(request.GET.get("points")) or 1500))),
    )
    drawn = {key: _slim(curve.as_json()) for key, curve in curves.items()}
    return JsonResponse({"series": drawn, "keys": metrics.keys(run), "last_seq": run.last_seq})


@require_safe
def run_yaml(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return yaml_file(yaml_of(RunConfig, run.config), name=f"run-{run.pk}")


@require_safe
def compare(request: HttpRequest) -> HttpResponse:
    """Several runs in the same charts, and what differs in their settings."""
    asked = [int(text) for text in request.GET.getlist("run") if text.isdecimal() and len(text) < 19][:MAX_COMPARED]
    visible = {run.pk: run for run in TrainingRun.objects.visible_to(signed_in(request)).filter(pk__in=asked)}
    runs = [visible[pk] for pk in dict.fromkeys(asked) if pk in visible]
    listed = with_headlines(runs)
    headlines = dict.fromkeys(each.headline for each in listed)
    keys = chart_order({key for run in runs for key in metrics.keys(run)}, headlines)
    context = {
        "runs": runs,
        "listed": listed,
        "chart_runs": [chart_run(run) for run in runs],
        "chart_keys": keys,
        "headline_keys": " ".join(headline.key for headline in headlines),
        "differences": compare_configs([run.config for run in runs]),
    }
    return render(request, "runs/compare.html", context)


@require_POST
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return act(request, lambda user: stop_run(user=user, run=run), back=run.get_absolute_url())


@require_POST
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return act(request, lambda user: resume_run(user=user, run=run), back=run.get_absolute_url())


@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    said = f"{run.name} and its checkpoints are deleted."
    done = act(request, lambda user: delete_run(user=user, run=run), back=run.get_absolute_url(), said=said)
    return done if TrainingRun.objects.filter(pk=pk).exists() else redirect("runs:list")


def found(request: HttpRequest, pk: int) -> TrainingRun:
    """The run, or 404 for whoever may not see it."""
    runs = TrainingRun.objects.visible_to(signed_in(request)).select_related("project", "dataset_version__dataset", "cloned_from")
    run: TrainingRun = get_object_or_404(runs, pk=pk)
    return run


def continued_from(run: TrainingRun, user: User) -> list[TrainingRun]:
    """Runs that began from one of this run's checkpoints."""
    weights = [uri for uri in run.checkpoints.values_list("sampler_uri", flat=True) if uri]
    children = TrainingRun.objects.visible_to(user).filter(config__model__init_from_checkpoint__in=weights)
    return list(children.newest_first()[:20])


def begun_from(run: TrainingRun, user: User) -> Checkpoint | None:
    """The checkpoint whose weights this run started with."""
    weights = run.config.get("model", {}).get("init_from_checkpoint")
    if not weights:
        return None
    visible = TrainingRun.objects.visible_to(user).values("pk")
    return Checkpoint.objects.filter(run__in=visible, sampler_uri=weights).select_related("run").first()


def _saved(run: TrainingRun) -> list[Saved]:
    saved, first = [], headline_of(run).key
    for checkpoint in run.checkpoints.select_related("run").prefetch_related("eval_runs"):
        shown = [(key, value) for key, value in checkpoint.metrics.items() if key == first or key.startswith("eval/")]
        saved.append(Saved(checkpoint, checkpoint_bytes(checkpoint), shown))
    return saved


def _header(run: TrainingRun) -> dict[str, Any]:
    latest = run.checkpoints.exclude(state_uri="").first()
    last, headline = metrics.latest(run), headline_of(run)
    return {
        "run": run,
        "resumes_at": latest.step if latest else 0,
        "headline": headline,
        "headline_value": last.get(headline.key),
        "speed": last.get("tokens/per_second"),
    }


def chart_run(run: TrainingRun, *, name: str = "") -> dict[str, Any]:
    """What the charts' script needs of a run; name: what the curve is called, by default as the run."""
    return {
        "name": name or run.name,
        "url": reverse("runs:series", args=[run.pk]),
        "began": (run.started_at or run.created_at).isoformat(),
        "live": not run.has_ended,
    }


def _slim(curve: dict[str, Any]) -> dict[str, Any]:
    """Without the band where every point is drawn."""
    if curve["count"] <= len(curve["x"]):
        del curve["min"], curve["max"]
    return curve


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
