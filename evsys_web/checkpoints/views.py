"""Pages about checkpoints: the list with scores, one checkpoint, and the question before it is deleted."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe
from django.views.decorators.vary import vary_on_headers

from evsys_web.accounts.permissions import require_maker
from evsys_web.accounts.views import signed_in
from evsys_web.checkpoints.actions import delete_checkpoint
from evsys_web.checkpoints.dependents import dependents, resume_warning, why_kept
from evsys_web.checkpoints.export_actions import size_of
from evsys_web.checkpoints.forms import PushForm
from evsys_web.checkpoints.models import Destination, Export, Weights
from evsys_web.checkpoints.scores import SORTS, evals_of, in_order, scored, visible_checkpoints, with_scores
from evsys_web.evals.models import Benchmark
from evsys_web.evals.tables import Column
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.downloads import CheckpointFile, checkpoint_download, files_of
from evsys_web.runs.headlines import headline_of
from evsys_web.runs.models import Checkpoint
from recipes.errors import CheckpointError, RecipeError

CHECKPOINTS_PER_PAGE = 25
EVALS_SHOWN = 50


@require_safe
@vary_on_headers("HX-Request")
def checkpoint_list(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    words = request.GET.get("q", "").replace("\0", "").strip()[:200]
    benchmarks = Benchmark.objects.visible_to(user).filter(eval_runs__checkpoint__isnull=False).distinct().order_by("name", "pk")
    benchmark = next((each for each in benchmarks if str(each.pk) == request.GET.get("benchmark")), None)
    sort = request.GET.get("sort", "")
    sort = sort if sort.removeprefix("-") in SORTS else "-saved"
    rows = visible_checkpoints(user)
    for word in words.split()[:8]:
        fits = Q(name__icontains=word) | Q(run__name__icontains=word) | Q(run__config__model__name__icontains=word)
        rows = rows.filter(fits | Q(run__dataset_reference__icontains=word))
    rows = in_order(with_scores(rows, user, benchmark=benchmark.pk if benchmark else None), sort)
    page = Paginator(rows, CHECKPOINTS_PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "listed": scored(page),
        "columns": _columns(sort),
        "words": words,
        "benchmarks": benchmarks,
        "benchmark": benchmark,
        "sort": sort,
        "is_filtered": bool(words or benchmark),
    }
    template = "checkpoints/_table.html" if request.htmx else "checkpoints/list.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@require_safe
def checkpoint_detail(request: HttpRequest, pk: int) -> HttpResponse:
    checkpoint = found(request, pk)
    user = signed_in(request)
    files: list[CheckpointFile] = files_of(checkpoint)
    evals = evals_of(checkpoint, user)
    headline = headline_of(checkpoint.run)
    scores = [each for each in evals[:EVALS_SHOWN] if each.summary.get("avg")]
    context = {
        **exports_context(checkpoint),
        "push_form": PushForm(checkpoint),
        "files": files,
        "num_bytes": sum(each.num_bytes for each in files) if files else None,
        "evals": evals[:EVALS_SHOWN],
        "newest": scores[0] if scores else None,
        "metrics": sorted(checkpoint.metrics.items()),
        "headline": headline,
        "headline_value": checkpoint.metrics.get(headline.key),
        "dependents": [kind for kind in dependents(checkpoint, user) if kind.noun not in ("eval run", "eval runs")],
    }
    return render(request, "checkpoints/detail.html", context)


@require_safe
def download(request: HttpRequest, pk: int) -> HttpResponseBase:
    """All files as a zip, or the one that ?file= names."""
    checkpoint = found(request, pk)
    try:
        return checkpoint_download(checkpoint, request.GET.get("file", ""))
    except CheckpointError as error:
        messages.error(request, str(error))
        return redirect(checkpoint)


@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    checkpoint = found(request, pk)
    user = signed_in(request)
    require_maker(user, checkpoint.run.project, checkpoint.run.created_by_id)
    if request.method == "POST":
        try:
            delete_checkpoint(user=user, checkpoint=checkpoint)
        except RunRefused as refusal:
            messages.error(request, str(refusal))
            return redirect(checkpoint)
        messages.success(request, f"The checkpoint {checkpoint.name} of {checkpoint.run.name} is deleted.")
        return redirect(f"{checkpoint.run.get_absolute_url()}#checkpoints")
    context = {
        **frame_of(checkpoint),
        "num_bytes": sum(each.num_bytes for each in files_of(checkpoint)),
        "dependents": dependents(checkpoint, user),
        "why_kept": why_kept(checkpoint),
        "resume_warning": resume_warning(checkpoint),
    }
    return render(request, "checkpoints/delete.html", context)


def found(request: HttpRequest, pk: int) -> Checkpoint:
    """The checkpoint, or 404 for whoever may not see its run."""
    return get_object_or_404(visible_checkpoints(signed_in(request)), pk=pk)


def frame_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What every page about one checkpoint shows. is_hosted: the weights lie with a provider."""
    return {"checkpoint": checkpoint, "run": checkpoint.run, "is_hosted": "://" in checkpoint.sampler_uri}


def exports_context(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the fragment shows. refusal: why nothing can be exported, or that there is no space."""
    exports = list(Export.objects.filter(checkpoint=checkpoint).select_related("checkpoint__run")[:20])
    merged = [export for export in exports if export.destination == Destination.DOWNLOAD]
    context = frame_of(checkpoint) | {
        "exports": exports,
        "is_busy": any(not export.has_ended for export in exports),
        "is_merged": any(export.is_ready or not export.has_ended for export in merged),
    }
    try:
        return context | {"merged_bytes": size_of(checkpoint, Weights.MERGED)}
    except RecipeError as refusal:
        return context | {"refusal": str(refusal)}


def _columns(sort: str) -> list[Column]:
    """Headings; a click sorts by the column, largest first (loss: smallest first), and turns it round the second time."""
    now, is_down = sort.removeprefix("-"), sort.startswith("-")

    def column(label: str, name: str, first: str, *, is_number: bool = True) -> Column:
        if now == name:
            return Column(label, name if is_down else f"-{name}", "descending" if is_down else "ascending", is_number)
        return Column(label, first, "", is_number)

    return [
        Column("Checkpoint"),
        column("Step", "step", "-step"),
        column("Loss", "loss", "loss"),
        column("Accuracy", "right", "-right"),
        Column("Size", is_number=True),
        column("Saved", "saved", "-saved", is_number=False),
    ]
