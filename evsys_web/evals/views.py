"""Pages about evals that exist: list, eval, benchmark, comparison, and the fragments that keep them fresh."""

from __future__ import annotations

import json
from typing import Any

from django.core.paginator import Paginator
from django.db.models import Count, OuterRef, Q, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from evsys_web.accounts.views import signed_in
from evsys_web.evals.actions import delete_eval, resume_eval, retry_errors, stop_eval
from evsys_web.evals.attempts import fact, side_by_side
from evsys_web.evals.comparison import RunsCompared, say
from evsys_web.evals.curves import curves_context
from evsys_web.evals.leaks import trained_by
from evsys_web.evals.models import Benchmark, EvalRun
from evsys_web.evals.tables import TaskTable
from evsys_web.runs.snippets import curl_for, yaml_of
from evsys_web.runs.work_pages import PER_PAGE, act, list_context, searched, yaml_file
from recipes.eval_config import EvalConfig

TASKS_PER_PAGE = 50
ATTEMPTS_PER_PAGE = 16
EVENTS_SHOWN = 500
MAX_CHOICES = 200


@require_safe
@vary_on_headers("HX-Request")
def eval_list(request: HttpRequest) -> HttpResponse:
    runs = EvalRun.objects.visible_to(signed_in(request))
    for word in searched(request):
        fits = Q(name__icontains=word) | Q(model_label__icontains=word) | Q(benchmark__name__icontains=word)
        runs = runs.filter(fits | Q(dataset_reference__icontains=word))
    context = list_context(request, runs, EvalRun.objects.select_related("benchmark").defer("error_detail", "config"))
    template = "evals/_eval_table.html" if request.htmx else "evals/list.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@require_safe
def eval_detail(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    table = TaskTable(run, request.GET)
    context = {
        **_header(request, run),
        **_tasks(request, run, table),
        **_curve(run),
        "last_seq": run.last_seq,
        "events": run.events.order_by("-seq")[:EVENTS_SHOWN],
        "config_yaml": yaml_of(EvalConfig, run.config),
        "curl": curl_for(request, "evals", run.config),
    }
    return render(request, "evals/detail.html", context)


@require_safe
def eval_header(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "evals/_header.html", _header(request, found(request, pk)))


@require_safe
def eval_figures(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return render(request, "evals/_figures.html", {"run": run, "summary": run.summary})


@require_safe
def eval_tasks(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return render(request, "evals/_tasks.html", {"run": run, **_tasks(request, run, TaskTable(run, request.GET))})


@require_safe
def eval_curve(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return render(request, "evals/_curve.html", {"run": run, **_curve(run)})


@require_safe
def eval_events(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return render(request, "evals/_events.html", {"run": run, "events": run.events.order_by("-seq")[:EVENTS_SHOWN]})


@require_safe
def eval_yaml(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return yaml_file(yaml_of(EvalConfig, run.config), name=f"eval-{run.pk}")


@require_safe
def task_detail(request: HttpRequest, pk: int, position: int) -> HttpResponse:
    """The attempts at one task beside each other."""
    run = found(request, pk)
    task = get_object_or_404(run.tasks, position=position)
    table = TaskTable(run, request.GET)
    page = Paginator(task.attempts.order_by("attempt"), ATTEMPTS_PER_PAGE).get_page(request.GET.get("page"))
    prompt, shown = side_by_side(list(page))
    previous, following = table.beside(task)
    context = {
        "run": run,
        "task": task,
        "table": table,
        "page": page,
        "prompt": prompt,
        "shown": shown,
        "facts": [("Answer", fact(task.answer))] if task.answer is not None else [],
        "previous": previous,
        "next": following,
        "back_url": f"{run.get_absolute_url()}{table.query}",
    }
    return render(request, "evals/task.html", context)


@require_safe
def benchmark_list(request: HttpRequest) -> HttpResponse:
    """Each with its newest eval that has numbers."""
    newest = EvalRun.objects.filter(benchmark=OuterRef("pk"), num_done__gt=0).newest_first().values("pk")[:1]
    benchmarks = Benchmark.objects.visible_to(signed_in(request)).annotate(
        num_evals=Count("eval_runs", distinct=True), newest_pk=Subquery(newest)
    )
    page = Paginator(benchmarks.order_by("-created_at", "-pk"), PER_PAGE).get_page(request.GET.get("page"))
    runs = EvalRun.objects.defer("error_detail", "config").in_bulk([each.newest_pk for each in page if each.newest_pk])
    listed = [(each, runs.get(each.newest_pk)) for each in page]
    return render(request, "evals/benchmarks.html", {"page": page, "listed": listed})


@require_safe
def benchmark_detail(request: HttpRequest, pk: int) -> HttpResponse:
    benchmarks = Benchmark.objects.visible_to(signed_in(request)).select_related(
        "project", "created_by", "dataset_version__dataset"
    )
    benchmark = get_object_or_404(benchmarks, pk=pk)
    runs = benchmark.eval_runs.select_related("benchmark").defer("error_detail", "config").newest_first()
    page = Paginator(runs, PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "benchmark": benchmark,
        "verifier": json.dumps(benchmark.verifier.get("params", {}), ensure_ascii=False, indent=1),
        "page": page,
        "listed": list(page),
    }
    return render(request, "evals/benchmark.html", context)


@require_safe
def compare(request: HttpRequest) -> HttpResponse:
    """Two evals on their common tasks. From the list come two ticked ones: the older is A."""
    visible = EvalRun.objects.visible_to(signed_in(request)).defer("error_detail", "config")
    ticked = sorted(pk for pk in map(_key, request.GET.getlist("run")) if pk)[:2]
    asked = [_key(request.GET.get(name, "")) for name in ("a", "b")] if not ticked else [*ticked, 0][:2]
    runs = visible.in_bulk([pk for pk in asked if pk])
    a, b = (runs.get(pk) for pk in asked)
    offered = {run.pk: run for run in [*runs.values(), *visible.newest_first()[:MAX_CHOICES]]}
    choices = [{"pk": pk, "label": f"#{pk} {run.name} · {run.model_label}"} for pk, run in sorted(offered.items(), reverse=True)]
    context: dict[str, Any] = {"a": a, "b": b, "choices": choices}
    if a is not None and b is not None:
        compared = RunsCompared(a, b)
        context |= {
            "comparison": compared.comparison,
            "num_leaked": compared.num_leaked,
            "finding": say(compared.comparison, compared.num_leaked),
            "of_a": compared.of_a,
            "of_b": compared.of_b,
            "newly_solved": compared.newly_solved(),
            "newly_broken": compared.newly_broken(),
            **curves_context({"B − A": compared.comparison.as_json()["pass_at"]}),
        }
    return render(request, "evals/compare.html", context)


@require_POST
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return act(request, lambda user: stop_eval(user=user, run=run), back=run.get_absolute_url())


@require_POST
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return act(request, lambda user: resume_eval(user=user, run=run), back=run.get_absolute_url())


@require_POST
def retry(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return act(request, lambda user: retry_errors(user=user, run=run), back=run.get_absolute_url())


@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    said = f"{run.name} and its attempts are deleted."
    done = act(request, lambda user: delete_eval(user=user, run=run), back=run.get_absolute_url(), said=said)
    return done if EvalRun.objects.filter(pk=pk).exists() else redirect("evals:list")


def found(request: HttpRequest, pk: int) -> EvalRun:
    """The eval, or 404 for whoever may not see it."""
    runs = EvalRun.objects.visible_to(signed_in(request))
    run: EvalRun = get_object_or_404(
        runs.select_related("project", "benchmark", "dataset_version__dataset", "checkpoint__run"), pk=pk
    )
    return run


def _header(request: HttpRequest, run: EvalRun) -> dict[str, Any]:
    return {"run": run, "summary": run.summary, "leaked_by": trained_by(run, signed_in(request))}


def _tasks(request: HttpRequest, run: EvalRun, table: TaskTable) -> dict[str, Any]:
    return {"table": table, "page": Paginator(table.tasks(), TASKS_PER_PAGE).get_page(request.GET.get("page"))}


def _curve(run: EvalRun) -> dict[str, Any]:
    found = {"pass@k": run.summary.get("pass_at", {}), "pass^k": run.summary.get("pass_hat", {})}
    return {**curves_context(found), "explain": True}


def _key(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
