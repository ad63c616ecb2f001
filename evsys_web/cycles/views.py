"""Pages about cycles that exist: list, cycle, and the fragments that keep it fresh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers
from django_htmx.http import trigger_client_event

from evsys_web.accounts.views import signed_in
from evsys_web.attachments import attachment
from evsys_web.cycles.actions import delete_cycle, resume_cycle, stop_cycle
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.export import export_cycle
from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.cycles.picture import pictures_of
from evsys_web.cycles.side_by_side import table_of
from evsys_web.cycles.steps import steps_of
from evsys_web.evals.curves import curves_context
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.snippets import curl_for, yaml_of
from evsys_web.runs.work_pages import act, list_context, searched, yaml_file
from recipes.cycle_config import CycleConfig

EVENTS_SHOWN = 200
MOST_CURVES = 7
"""Beside the baseline; there are eight colours."""


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
    context = {
        **_found_out(cycle),
        **_steps(cycle),
        "config_yaml": yaml_of(CycleConfig, cycle.config),
        "curl": curl_for(request, "cycles", cycle.config),
    }
    return render(request, "cycles/detail.html", context)


@require_safe
def cycle_header(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "cycles/_header.html", {"cycle": found(request, pk)})


@require_safe
def cycle_steps(request: HttpRequest, pk: int) -> HttpResponse:
    """Asked for every moment while the cycle is under way. Where it has moved since the page was drawn, the rest of the page is
    told to ask for itself."""
    cycle = found(request, pk)
    response = render(request, "cycles/_steps.html", _steps(cycle))
    return response if request.GET.get("seen") == seen(cycle) else trigger_client_event(response, "cycle-moved", after="settle")


@require_safe
def cycle_found(request: HttpRequest, pk: int) -> HttpResponse:
    """What was found out so far: the answer, the rounds, the picture, the curves, the log."""
    return render(request, "cycles/_moved.html", _found_out(found(request, pk)))


@require_safe
def cycle_yaml(request: HttpRequest, pk: int) -> HttpResponse:
    cycle = found(request, pk)
    return yaml_file(yaml_of(CycleConfig, cycle.config), name=f"cycle-{cycle.pk}")


@require_safe
def export(request: HttpRequest, pk: int) -> HttpResponseBase:
    cycle = found(request, pk)
    try:
        return attachment(export_cycle(cycle), f"cycle-{cycle.pk}.zip", content_type="application/zip")
    except RunRefused as refusal:
        messages.error(request, str(refusal))
        return redirect(cycle)


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


def seen(cycle: Cycle) -> str:
    """Changes with everything but how far the part under way is."""
    return f"{cycle.place}-{cycle.status}-{cycle.last_seq}"


def _steps(cycle: Cycle) -> dict[str, Any]:
    return {"cycle": cycle, "steps": steps_of(cycle, list(cycle.rounds.all())), "seen": seen(cycle)}


def _found_out(cycle: Cycle) -> dict[str, Any]:
    rounds = list(cycle.rounds.all())
    return {
        "cycle": cycle,
        "judged": next(
            (each for each in reversed(rounds) if each.finding.get("baseline") and each.judged and cycle.baseline), None
        ),
        "answer": answer_of(cycle),
        "table": table_of(cycle, rounds),
        "pictures": pictures_of(cycle, rounds),
        "events": cycle.events.order_by("-seq")[:EVENTS_SHOWN],
        **curves_context(_curves(cycle, rounds)),
    }


def _curves(cycle: Cycle, rounds: Sequence[CycleRound]) -> dict[str, Any]:
    """pass@k on the held-out tasks: the baseline, and the newest rounds that are judged."""
    judged = {f"Round {round_.number}": round_.judged for round_ in rounds if round_.judged and round_.judged.summary}
    newest = list(judged.items())[-MOST_CURVES:]
    runs = {"Baseline": cycle.baseline, **dict(newest)}
    found = {name: run.summary.get("pass_at", {}) for name, run in runs.items() if run is not None}
    return {name: points for name, points in found.items() if points}
