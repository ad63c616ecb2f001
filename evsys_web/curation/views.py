"""Pages of curation: the workbench and its live result, what was published, saved filters, and lineage for other pages."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from evsys_web.accounts.permissions import editors_only, require_editor_somewhere
from evsys_web.accounts.views import signed_in
from evsys_web.config_forms import label_of
from evsys_web.curation import actions
from evsys_web.curation.forms import WorkbenchForm, curatable
from evsys_web.curation.lineage import learners_from, places_of_task, sources_of
from evsys_web.curation.models import Curation, Filter
from evsys_web.curation.reading import still_reading
from evsys_web.curation.workbench import EXAMPLES, PRESETS, look_at
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalRun, EvalTask
from recipes.curation import CurationSettings
from recipes.curation.tree import NAMES
from recipes.errors import ConfigError, DataError, FilterError

CURATIONS_PER_PAGE = 25
MAX_ROWS_SHOWN = 100


@require_safe
def curation_list(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    curations = Curation.objects.visible_to(user).select_related("dataset_version__dataset", "created_by")
    context = {
        "page": Paginator(curations, CURATIONS_PER_PAGE).get_page(request.GET.get("page")),
        "filters": Filter.objects.visible_to(user)[:200],
        "has_evals": curatable(user).exists(),
    }
    return render(request, "curation/list.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def new_curation(request: HttpRequest) -> HttpResponse:
    """The workbench; posting it publishes."""
    user = signed_in(request)
    if request.method != "POST":
        form = WorkbenchForm(user, request.GET)
        return _page(request, form)
    require_editor_somewhere(user)
    form = WorkbenchForm(user, request.POST)
    if not form.is_valid():
        return _page(request, form, refusal=" ".join(form.mistakes()) or str(form.filter_error))
    try:
        published = actions.publish(
            user=user,
            project=form.runs[0].project,
            eval_runs=form.runs,
            settings=form.settings,
            name=form.dataset_name,
        )
    except (ConfigError, FilterError, DataError) as refused:
        return _page(request, form, refusal=str(refused))
    version = published.version
    if published.created:
        messages.success(request, f"{version.num_rows:,} rows published as {version.reference}.")
    else:
        messages.info(request, f"{version.reference} already has exactly these rows; no new version was made.")
    return redirect(published.curation)


@require_safe
def preview(request: HttpRequest) -> HttpResponse:
    """The result of what is typed. A mistake leaves the last result standing, and is said below the filter. Where attempts have
    to be read first, the page hears how far that is and asks again."""
    form = WorkbenchForm(signed_in(request), request.GET)
    context: dict[str, Any] = {"form": form}
    if form.is_valid():
        if (progress := still_reading(form.runs)) is not None:
            context |= {"progress": progress, "preview_url": reverse("curation:preview"), "before": request.GET.get("before", "")}
            return render(request, "curation/_reading.html", context)
        try:
            context["look"] = look_at(form.runs, form.settings, before=request.GET.get("before", ""))
        except (ConfigError, FilterError, DataError) as refused:
            context["refusal"] = str(refused)
    elif not form.filter_error:
        context["refusal"] = " ".join(form.mistakes())
    answer = render(request, "curation/_result.html" if "look" in context else "curation/_mistake.html", context)
    answer["HX-Replace-Url"] = form.url
    if "look" not in context:
        # Where the card asked that says how far the reading is, it has nothing more to say.
        answer["HX-Reswap"] = "innerHTML" if request.headers.get("HX-Trigger") == "result" else "none"
    return answer


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user = signed_in(request)
    curations = Curation.objects.visible_to(user).select_related("dataset_version__dataset", "created_by", "project")
    curation = get_object_or_404(curations, pk=pk)
    runs = curation.eval_runs.in_bulk()
    counts, version = curation.counts, curation.dataset_version
    context = {
        "curation": curation,
        "sources": [{"was": source, "run": runs.get(source["eval_run"])} for source in curation.sources],
        "settings": _shown(curation.settings),
        "rows_label": "Pairs" if curation.is_pairs else "Rows",
        "kept_note": f"of {counts.get('num_tasks', 0):,}",
        "split_note": f"{counts.get('num_validation_rows', 0):,} of them held out for validation",
        "token_note": f"unknown for {unknown:,} rows" if (unknown := counts.get("num_rows_without_tokens", 0)) else "",
        "learners": learners_from(version, user) if version else [],
    }
    return render(request, "curation/detail.html", context)


@require_POST
@editors_only
def save_filter(request: HttpRequest) -> HttpResponse:
    """The workbench's settings under a name, then the workbench as it was."""
    user = signed_in(request)
    form = WorkbenchForm(user, request.POST)
    if not form.is_valid():
        return _page(request, form, refusal=" ".join(form.mistakes()) or str(form.filter_error))
    try:
        saved = actions.save_filter(
            user=user, project=form.runs[0].project, name=request.POST.get("filter_name", ""), settings=form.settings
        )
    except ConfigError as refused:
        return _page(request, form, refusal=str(refused))
    messages.success(request, f"Saved as {saved.name}.")
    return redirect(form.url)


@require_POST
def delete_filter(request: HttpRequest, pk: int) -> HttpResponse:
    user = signed_in(request)
    saved = get_object_or_404(Filter.objects.visible_to(user), pk=pk)
    actions.delete_filter(user=user, saved=saved)
    messages.success(request, f"The filter {saved.name} is deleted.")
    return redirect("curation:list")


@require_safe
def task_lineage(request: HttpRequest, pk: int, position: int) -> HttpResponse:
    """For the page of a task: which datasets its attempts became rows of, and what was trained on those."""
    user = signed_in(request)
    run = get_object_or_404(EvalRun.objects.visible_to(user), pk=pk)
    task = get_object_or_404(EvalTask, eval_run=run, position=position)
    return render(request, "curation/_task_lineage.html", {"places": sorted(places_of_task(task, user).items())})


@require_safe
def version_origin(request: HttpRequest, pk: int) -> HttpResponse:
    """For the page of a dataset version: the curations that gave its rows."""
    curations = _version(request, pk).curations.prefetch_related("eval_runs").order_by("pk")[:5]
    return render(request, "curation/_origin.html", {"curations": curations})


@require_safe
def row_sources(request: HttpRequest, pk: int) -> HttpResponse:
    """For rows that a page shows, by their numbers from 1: the attempt that each comes from."""
    asked = [int(text) for text in request.GET.get("shown", "").split(",") if text.isdecimal() and len(text) < 10]
    sources = sources_of(_version(request, pk), [number - 1 for number in asked[:MAX_ROWS_SHOWN]])
    rows = [(position + 1, list(group)) for position, group in groupby(sources, key=lambda source: source.position)]
    return render(request, "curation/_row_sources.html", {"rows": rows})


def _version(request: HttpRequest, pk: int) -> DatasetVersion:
    versions = DatasetVersion.objects.ready().visible_to(signed_in(request))
    version: DatasetVersion = get_object_or_404(versions.select_related("dataset"), pk=pk)
    return version


def _page(request: HttpRequest, form: WorkbenchForm, *, refusal: str = "") -> HttpResponse:
    context = {
        "form": form,
        "refusal": refusal,
        "presets": PRESETS,
        "examples": EXAMPLES,
        "names": [(f"{name}@k" if name == "pass" else name, sentence) for name, (_, sentence) in NAMES.items()],
        "has_evals": bool(form.runs) or curatable(form.user).exists(),
        "preview_url": reverse("curation:preview"),
    }
    return render(request, "curation/new.html", context, status=422 if refusal else 200)


def _shown(settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(label, value, what it means) of every setting but the filter."""
    shown = []
    for name, info in CurationSettings.model_fields.items():
        if name == "filter" or name not in settings:
            continue
        value = settings[name]
        text = "–" if value is None else {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else str(value)
        shown.append((label_of(name), str(text), info.description or ""))
    return shown
