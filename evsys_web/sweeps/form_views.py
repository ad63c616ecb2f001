"""The page that makes a sweep of a run's settings, and the fragments that keep it true while somebody types."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from evsys_web.accounts.permissions import editors_only
from evsys_web.accounts.views import signed_in
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.form_views import asked_number, start_of, starting_point, yaml_sent
from evsys_web.runs.launches import submission_of
from evsys_web.runs.work_pages import export_of
from evsys_web.sweeps.actions import launch_sweep
from evsys_web.sweeps.estimates import estimate_sweep
from evsys_web.sweeps.forms import SweepForm, bound_sentence
from evsys_web.sweeps.models import Sweep
from recipes.errors import ConfigError
from recipes.registry import algorithms, backends, callbacks, load_failures
from recipes.sweep_config import SweepConfig


@require_http_methods(["GET", "HEAD", "POST"])
@editors_only
def new_sweep(request: HttpRequest) -> HttpResponse:
    """Posted to by the run's form ("Sweep"), with its settings; nothing is started by that."""
    user = signed_in(request)
    if request.method == "POST":
        return _page(request, SweepForm(user, request.POST))
    source = Sweep.objects.visible_to(user).filter(pk=asked_number(request, "from")).first()
    if source is None:
        return _page(request, SweepForm(user, start=starting_point(request, user)))
    try:
        tried = source.load_config()
    except ConfigError as error:
        return _page(request, SweepForm(user, start=starting_point(request, user)), yaml_error=str(error))
    start, note = start_of(tried, user)
    return _page(request, SweepForm(user, start=start, tried=tried), yaml_note=note)


@require_POST
@editors_only
def launch(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    form = SweepForm(user, request.POST)
    if form.is_valid():
        try:
            sweep = launch_sweep(
                user=user,
                project=form.version.dataset.project,
                config=form.config,
                dataset_version=form.version,
                idempotency_key=submission_of(request.POST),
            )
        except ConfigError as error:
            form.refuse(error)
        else:
            return redirect(sweep)
    return _page(request, form)


@require_POST
@editors_only
def plan_fragment(request: HttpRequest) -> HttpResponse:
    """How many runs, and what they will take; nothing is said of rows that are not filled in yet."""
    user = signed_in(request)
    form = SweepForm(user, request.POST)
    context: dict[str, Any] = {}
    if form.is_valid():
        context["estimate"] = estimate_sweep(form.config, form.version, user)
    else:
        context["mistakes"] = form.mistakes()
    return render(request, "sweeps/_plan.html", context)


@require_POST
@editors_only
def export_fragment(request: HttpRequest) -> HttpResponse:
    return export_of(request, SweepForm(signed_in(request), request.POST), SweepConfig, "sweeps")


@require_POST
@editors_only
def import_yaml(request: HttpRequest) -> HttpResponse:
    """YAML, pasted or as a file, becomes a filled-in form; nothing is started."""
    user = signed_in(request)
    text = request.POST.get("yaml", "")
    try:
        text = yaml_sent(request)
        tried = SweepConfig.from_yaml(text)
        start, note = start_of(tried, user)
        form = SweepForm(user, start=start, tried=tried)
        form.refuse_what_it_cannot_show(tried)
    except ConfigError as error:
        return _page(request, SweepForm(user, start=starting_point(request, user)), yaml_error=str(error), yaml_text=text)
    return _page(request, form, yaml_note=note)


def _page(request: HttpRequest, form: SweepForm, **context: Any) -> HttpResponse:
    user = signed_in(request)
    has_datasets = DatasetVersion.objects.ready().editable_by(user).exists()
    context |= {"form": form, "has_datasets": has_datasets, "bound_sentence": bound_sentence()}
    context["failures"] = load_failures(algorithms, backends, callbacks)
    return render(request, "sweeps/new.html", context)
