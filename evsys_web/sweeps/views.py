"""Pages about sweeps that exist: the list, and the sweep with its table and curves."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from evsys_web.accounts.views import signed_in
from evsys_web.attachments import attachment
from evsys_web.runs import metrics
from evsys_web.runs.headlines import chart_order, headline_of
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.snippets import curl_for, yaml_of
from evsys_web.runs.views import MAX_COMPARED, chart_run
from evsys_web.runs.work_pages import PER_PAGE, act, searched, yaml_file
from evsys_web.sweeps.actions import delete_sweep, resume_sweep, stop_sweep
from evsys_web.sweeps.models import Sweep, SweepRun
from evsys_web.sweeps.results import Table, csv_chunks, table_of
from recipes.sweep_config import SweepConfig, spelled


@require_safe
@vary_on_headers("HX-Request")
def sweep_list(request: HttpRequest) -> HttpResponse:
    sweeps = Sweep.objects.visible_to(signed_in(request))
    words = searched(request)
    for word in words:
        sweeps = sweeps.filter(name__icontains=word)
    page = Paginator(sweeps.with_counts().newest_first(), PER_PAGE).get_page(request.GET.get("page"))
    context = {"page": page, "words": " ".join(words), "is_live": any(_is_live(sweep) for sweep in page)}
    template = "sweeps/_sweep_table.html" if request.htmx else "sweeps/list.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@require_safe
@vary_on_headers("HX-Request")
def sweep_detail(request: HttpRequest, pk: int) -> HttpResponse:
    sweep = found(request, pk)
    table = _table(request, sweep)
    drawn = _drawn(table)
    context = {
        "sweep": sweep,
        "table": table,
        "heads": [_head(table, key, name) for key, name in zip(table.axes, table.names, strict=True)],
        "metric_heads": [_head(table, key, key) for key in table.keys],
        "is_live": _is_live(sweep),
        "swatches": {member.run_id: number for number, member in enumerate(drawn, 1)},
    }
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, "sweeps/_results.html", context)
    headlines = dict.fromkeys(headline_of(member.run) for member in drawn)
    keys = {key for member in drawn for key in metrics.keys(member.run)}
    context |= {
        "chart_runs": [chart_run(each.run, name=_curve_name(table, each)) for each in drawn],
        "chart_keys": chart_order(keys, headlines),
        "headline_keys": " ".join(headline.key for headline in headlines),
        "num_drawn": len(drawn),
        "config_yaml": yaml_of(SweepConfig, sweep.config),
        "curl": curl_for(request, "sweeps", sweep.config),
    }
    return render(request, "sweeps/detail.html", context)


@require_safe
def sweep_csv(request: HttpRequest, pk: int) -> HttpResponseBase:
    """The table as it is shown."""
    sweep = found(request, pk)
    chunks = csv_chunks(_table(request, sweep))
    return attachment(chunks, f"sweep-{sweep.pk}.csv", content_type="text/csv; charset=utf-8")


@require_safe
def sweep_yaml(request: HttpRequest, pk: int) -> HttpResponse:
    sweep = found(request, pk)
    return yaml_file(yaml_of(SweepConfig, sweep.config), name=f"sweep-{sweep.pk}")


@require_safe
def of_run(request: HttpRequest, pk: int) -> HttpResponse:
    """For the run's page, which knows nothing of sweeps: where it belongs, or nothing."""
    run = get_object_or_404(TrainingRun.objects.visible_to(signed_in(request)), pk=pk)
    place = SweepRun.objects.filter(run=run).select_related("sweep").first()
    return render(request, "sweeps/_of_run.html", {"place": place})


@require_POST
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    sweep = found(request, pk)
    said = "What waited is cancelled; what runs stops after its step."
    return act(request, lambda user: stop_sweep(user=user, sweep=sweep), back=sweep.get_absolute_url(), said=said)


@require_POST
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    sweep = found(request, pk)
    said = "The runs that did not complete are queued again."
    return act(request, lambda user: resume_sweep(user=user, sweep=sweep), back=sweep.get_absolute_url(), said=said)


@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    sweep = found(request, pk)
    said = f"{sweep.name}, its runs and their checkpoints are deleted."
    done = act(request, lambda user: delete_sweep(user=user, sweep=sweep), back=sweep.get_absolute_url(), said=said)
    return done if Sweep.objects.filter(pk=pk).exists() else redirect("sweeps:list")


def found(request: HttpRequest, pk: int) -> Sweep:
    """The sweep with its counts, or 404 for whoever may not see it."""
    visible = Sweep.objects.visible_to(signed_in(request)).with_counts()
    sweep: Sweep = get_object_or_404(visible.select_related("project", "dataset_version__dataset"), pk=pk)
    return sweep


def _table(request: HttpRequest, sweep: Sweep) -> Table:
    return table_of(sweep, asked=request.GET.getlist("metric"), sort=request.GET.get("sort", ""))


def _head(table: Table, key: str, name: str) -> dict[str, Any]:
    """A column's head: pressed again, it sorts the other way round."""
    is_here, falls = table.sort.removeprefix("-") == key, table.sort.startswith("-")
    order = ("descending" if falls else "ascending") if is_here else "none"
    return {"name": name, "path": key, "order": order, "sort": f"-{key}" if is_here and not falls else key}


def _drawn(table: Table) -> list[SweepRun]:
    """As many as there are colours: the first run of each combination, then further seeds."""
    rows = sorted(table.rows, key=lambda row: row.combination)
    longest = max((len(row.members) for row in rows), default=0)
    by_seed = [row.members[place] for place in range(longest) for row in rows if place < len(row.members)]
    return sorted(by_seed[:MAX_COMPARED], key=lambda member: (member.combination, member.pk))


def _curve_name(table: Table, member: SweepRun) -> str:
    values = next(row.values for row in table.rows if row.combination == member.combination)
    return spelled(values, member.seed)


def _is_live(sweep: Any) -> bool:
    return bool(sweep.num_queued or sweep.num_active)
