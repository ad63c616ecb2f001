"""The page that starts a cycle, and the fragments that keep it true while somebody types."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST

from evsys_web.accounts.models import User
from evsys_web.accounts.permissions import editors_only
from evsys_web.accounts.views import signed_in
from evsys_web.cycles.actions import launch_cycle
from evsys_web.cycles.estimates import estimate_cycle
from evsys_web.cycles.first import launch_first_cycle
from evsys_web.cycles.forms import CycleForm, moved, start_from
from evsys_web.cycles.models import Cycle
from evsys_web.evals.forms import as_agreed, benchmarks_for
from evsys_web.evals.offers import offer_for
from evsys_web.evals.starter import import_starter_benchmark, import_starter_learning_benchmark
from evsys_web.rates import TooOften
from evsys_web.runs.form_views import asked_number, next_name
from evsys_web.runs.forms import checkpoints_for, models_on_offer
from evsys_web.runs.launches import submission_of
from evsys_web.runs.work_pages import export_of
from recipes.cycle_config import CycleConfig
from recipes.errors import BackendError, ConfigError, DataError
from recipes.registry import algorithms, backends, callbacks, load_failures, verifiers


@require_http_methods(["GET", "HEAD", "POST"])
@editors_only
def new_cycle(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    if request.method != "POST":
        return _page(request, CycleForm(user, start=starting_point(request, user)))
    form = CycleForm(user, request.POST)
    if form.is_valid():
        try:
            cycle = launch_cycle(
                user=user,
                project=form.judge.project,
                config=form.config,
                idempotency_key=submission_of(request.POST),
                cloned_from=form.choices.cleaned_data["cloned_from"],
            )
        except ConfigError as error:
            form.refuse(error)
        except DataError as refusal:
            form.choices.add_error(None, str(refusal))
        else:
            return redirect(cycle)
    return _page(request, form)


@require_POST
@editors_only
def first_cycle(request: HttpRequest) -> HttpResponse:
    """The guided first cycle, in the person's first project."""
    user = signed_in(request)
    key = request.POST.get("submission_key", "")[:200] or None
    try:
        return redirect(launch_first_cycle(user=user, project=user.default_project(), idempotency_key=key))
    except (ConfigError, DataError) as refusal:
        messages.error(request, str(refusal))
        return redirect("cycles:list")


@require_POST
@editors_only
def settings_fragment(request: HttpRequest) -> HttpResponse:
    """The fields that another model, algorithm or backend calls for; what was typed stays."""
    user = signed_in(request)
    typed = CycleForm(user, request.POST)
    start: dict[str, Any] = {name: typed.text(name) for name in typed.choices.fields}
    start["params"] = {
        part: {name: request.POST[form.add_prefix(name)] for name in form.fields if form.add_prefix(name) in request.POST}
        for part, form in typed.settings.items()
    }
    start |= moved(start, was_on=request.POST.get("shown_backend", typed.text("backend")))
    form = CycleForm(user, start=start)
    if request.POST.get("shown_for") != shown_for(form):
        start["params"]["training"] = form.preset.params
        form = CycleForm(user, start=start)
    return render(request, "cycles/_settings.html", _shown(form))


@require_POST
@editors_only
def size_fragment(request: HttpRequest) -> HttpResponse:
    """What the settings as typed will take at most."""
    user = signed_in(request)
    form = CycleForm(user, as_agreed(request.POST))
    if not form.is_valid():
        return render(request, "cycles/_size.html", {"mistakes": form.mistakes()})
    chosen = form.choices.cleaned_data
    found = estimate_cycle(form.config, chosen["learn"], chosen["judge"], user)
    return render(request, "cycles/_size.html", {"estimate": found})


@require_POST
@editors_only
def offer_fragment(request: HttpRequest) -> HttpResponse:
    """What all deployments would cost at most; makes none, and needs no consent."""
    user = signed_in(request)
    form = CycleForm(user, request.POST)
    if "serving" not in form.settings:
        return render(request, "runs/_offer.html", {"refusal": "What is chosen answers without a deployment."})
    try:
        asked, serving = form.asked(), form.settings["serving"].params()
        context = {"sentence": offer_for(asked, user, serving=serving, num_evals=form.num_evals())}
    except (BackendError, ConfigError, TooOften) as error:
        context = {"refusal": str(error)}
    return render(request, "runs/_offer.html", context)


@require_POST
@editors_only
def export_fragment(request: HttpRequest) -> HttpResponse:
    return export_of(request, CycleForm(signed_in(request), request.POST), CycleConfig, "cycles")


@require_POST
@editors_only
def starter(request: HttpRequest) -> HttpResponse:
    """The bundled benchmarks (the same ones when asked again), then the form with both chosen."""
    user = signed_in(request)
    project = user.default_project()
    learn, judge = import_starter_learning_benchmark(project, user), import_starter_benchmark(project, user)
    return redirect(f"{reverse('cycles:new')}?{urlencode({'learn': learn.pk, 'judge': judge.pk})}")


def starting_point(request: HttpRequest, user: User) -> dict[str, Any]:
    """What the address asks for: a cycle to clone, a benchmark to learn from or to be judged by."""
    start: dict[str, Any] = {}
    clone = Cycle.objects.visible_to(user).filter(pk=asked_number(request, "clone")).first()
    if clone is not None:
        config = CycleConfig.model_validate(clone.config)
        start = {**start_from(config), "name": next_name(clone.name), "cloned_from": clone.pk}
        start |= {"learn": clone.learn_id, "judge": clone.judge_id}
        if config.model.checkpoint and (saved := checkpoints_for(user).filter(sampler_uri=config.model.checkpoint).first()):
            start["checkpoint"] = saved.pk
    for side in ("learn", "judge"):
        if asked := benchmarks_for(user).filter(pk=asked_number(request, side)).first():
            start[side] = asked.pk
    return start


def shown_for(form: CycleForm) -> str:
    """What the training settings on the page were drawn for: with another model or algorithm they start anew."""
    return "|".join(form.text(name) for name in ("model_name", "training"))


def _shown(form: CycleForm) -> dict[str, Any]:
    return {"form": form, "shown_for": shown_for(form)}


def _page(request: HttpRequest, form: CycleForm) -> HttpResponse:
    user = signed_in(request)
    context = {
        **_shown(form),
        "models": models_on_offer(user),
        "num_benchmarks": benchmarks_for(user).count(),
        "failures": load_failures(algorithms, backends, callbacks, verifiers),
    }
    return render(request, "cycles/new.html", context, status=422 if form.num_errors() else 200)
