"""Pages about cycles that exist: list, cycle, and the fragment that keeps it fresh."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from evsys_web.accounts.views import signed_in
from evsys_web.cycles.actions import delete_cycle, resume_cycle, stop_cycle
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.models import Cycle
from evsys_web.cycles.snippets import curl_for, yaml_of
from evsys_web.runs.work_pages import act, list_context, searched, yaml_file

EVENTS_SHOWN = 200


@require_safe
@vary_on_headers("HX-Request")
def cycle_list(request: HttpRequest) -> HttpResponse:
    cycles = Cycle.objects.visible_to(signed_in(request))
    for word in searched(request):
        cycles = cycles.filter(name__icontains=word)
    context = list_context(request, cycles, Cycle.objects.with_parts().defer("error_detail"))
    template = "cycles/_cycle_table.html" if request.htmx else "cycles/list.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@require_safe
def cycle_detail(request: HttpRequest, pk: int) -> HttpResponse:
    cycle = found(request, pk)
    context = {**now_context(cycle), "config_yaml": yaml_of(cycle.config), "curl": curl_for(request, cycle.config)}
    return render(request, "cycles/detail.html", context)


@require_safe
def cycle_now(request: HttpRequest, pk: int) -> HttpResponse:
    """All of the page that changes while the cycle is under way."""
    return render(request, "cycles/_now.html", now_context(found(request, pk)))


@require_safe
def cycle_yaml(request: HttpRequest, pk: int) -> HttpResponse:
    cycle = found(request, pk)
    return yaml_file(yaml_of(cycle.config), name=f"cycle-{cycle.pk}")


@require_POST
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    cycle = found(request, pk)
    return act(request, lambda user: stop_cycle(user=user, cycle=cycle), back=cycle.get_absolute_url())


@require_POST
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    cycle = found(request, pk)
    return act(request, lambda user: resume_cycle(user=user, cycle=cycle), back=cycle.get_absolute_url())


@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    cycle = found(request, pk)
    said = f"{cycle.name} is deleted; its evals, datasets and runs are still there."
    done = act(request, lambda user: delete_cycle(user=user, cycle=cycle), back=cycle.get_absolute_url(), said=said)
    return done if Cycle.objects.filter(pk=pk).exists() else redirect("cycles:list")


def found(request: HttpRequest, pk: int) -> Cycle:
    """The cycle with its parts, or 404 for whoever may not see it."""
    cycle: Cycle = get_object_or_404(Cycle.objects.visible_to(signed_in(request)).with_parts(), pk=pk)
    return cycle


def now_context(cycle: Cycle) -> dict[str, Any]:
    return {
        "cycle": cycle,
        "answer": answer_of(cycle),
        "rounds": list(cycle.rounds.all()),
        "events": cycle.events.order_by("-seq")[:EVENTS_SHOWN],
    }
