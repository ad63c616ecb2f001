"""Pages about what a run sampled while it trained: the sanity panel, and one group of a step as conversations."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from evsys_web.runs import metrics
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.rollouts import rollouts_of, shown_group, step_asked, teaches
from evsys_web.runs.sanity import sanity
from evsys_web.runs.views import found
from recipes.rollout_log import LoggedStep

FROM_END = "last"


@require_safe
@vary_on_headers("HX-Request")
def run_rollouts(request: HttpRequest, pk: int) -> HttpResponse:
    """`step` and `group` (from 1, or "last") in the address; the newest step and its first group without them."""
    run = found(request, pk)
    logged = rollouts_of(run, step_asked(request.GET.get("step")))
    context: dict[str, Any] = {"run": run, "logged": logged}
    if logged is not None:
        asked = request.GET.get("group", "")
        last = len(logged.groups) - 1
        index = last if asked == FROM_END else min(max((step_asked(asked) or 1) - 1, 0), last)
        context |= {
            "asked": step_asked(request.GET.get("step")),
            "group": shown_group(logged, index),
            "groups": [_summary(group) for group in logged.groups],
            **_neighbours(run, logged, index),
        }
    template = "runs/_samples.html" if request.htmx else "runs/rollouts.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@require_safe
def run_sanity(request: HttpRequest, pk: int) -> HttpResponse:
    run = found(request, pk)
    return render(request, "runs/_sanity.html", {"run": run, "signals": sanity(run, metrics.keys(run))})


def _summary(group: dict[str, Any]) -> dict[str, Any]:
    rewards = [rollout["reward"] for rollout in group["rollouts"] if rollout["reward"] is not None]
    return {
        "task_id": str(group["task_id"])[:200].encode("utf-8", "replace").decode(),
        "mean": sum(rewards) / len(rewards) if rewards else None,
        "teaches": teaches(group),
    }


def _neighbours(run: TrainingRun, logged: LoggedStep, index: int) -> dict[str, str]:
    """Addresses of the group before and after, over the ends of a step, and of the steps before and after."""
    base = reverse("runs:rollouts", args=[run.pk])

    def at(step: int | None, group: int | str) -> str:
        return "" if step is None else f"{base}?step={step}&group={group}"

    return {
        "previous_group": at(logged.step, index) if index else at(logged.previous, FROM_END),
        "next_group": at(logged.step, index + 2) if index + 1 < len(logged.groups) else at(logged.following, 1),
        "previous_step": at(logged.previous, 1),
        "next_step": at(logged.following, 1),
    }
