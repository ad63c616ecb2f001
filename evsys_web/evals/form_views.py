"""The page that starts an eval, and the fragments that keep it true while somebody types."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from evsys_web.accounts.models import BackendCredential, User
from evsys_web.accounts.permissions import editors_only
from evsys_web.accounts.views import signed_in
from evsys_web.config_forms import mistakes_in
from evsys_web.evals.actions import benchmark_of, launch_eval
from evsys_web.evals.estimates import estimate_for
from evsys_web.evals.forms import EvalForm, as_agreed, benchmarks_for, start_from, task_versions_for
from evsys_web.evals.models import EvalRun
from evsys_web.evals.offers import offer_for
from evsys_web.evals.starter import import_starter_benchmark
from evsys_web.rates import TooOften
from evsys_web.runs.form_views import asked_number, next_name
from evsys_web.runs.forms import checkpoints_for, models_on_offer
from evsys_web.runs.launches import submission_of
from evsys_web.runs.work_pages import export_of
from recipes.errors import BackendError, ConfigError, DataError
from recipes.eval_config import EvalConfig
from recipes.evals.runner import open_verifier
from recipes.registry import backends, load_failures, verifiers
from recipes.types import Task
from recipes.verifiers import check_tasks

NUM_TASKS_CHECKED = 200
NUM_MISFITS_SHOWN = 5


@require_http_methods(["GET", "HEAD", "POST"])
@editors_only
def new_eval(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    if request.method != "POST":
        return _page(request, EvalForm(user, start=starting_point(request, user)))
    form = EvalForm(user, request.POST)
    if form.is_valid():
        try:
            run = _launch(form, user, submission_of(request.POST))
        except ConfigError as error:
            form.refuse(error)
        except DataError as error:
            form.choices.add_error("dataset_version" if form.is_new_benchmark else "benchmark", str(error))
        else:
            return redirect(run)
    return _page(request, form)


@require_POST
@editors_only
def settings_fragment(request: HttpRequest) -> HttpResponse:
    """The fields that another source, benchmark or verifier calls for; what was typed stays."""
    user = signed_in(request)
    typed = EvalForm(user, request.POST)
    start: dict[str, Any] = {
        name: typed.text(name) for name in typed.choices.fields if typed.choices.add_prefix(name) in request.POST
    }
    start.setdefault("dataset_version", _newest_tasks(user))
    start["params"] = {
        part: {name: request.POST[form.add_prefix(name)] for name in form.fields if form.add_prefix(name) in request.POST}
        for part, form in typed.settings.items()
    }
    return render(request, "evals/_settings.html", {"form": EvalForm(user, start=start)})


@require_POST
@editors_only
def size_fragment(request: HttpRequest) -> HttpResponse:
    """What the settings as typed will take, and whether the verifier can judge the tasks."""
    user = signed_in(request)
    form = EvalForm(user, as_agreed(request.POST))
    if not form.is_valid():
        return render(request, "evals/_size.html", {"mistakes": form.mistakes()})
    config, estimate = form.config, estimate_for(form.config, form.version, user)
    rows = form.version.rows_between(0, min(estimate.num_tasks, NUM_TASKS_CHECKED), form.split)
    misfits = check_tasks(map(Task.of, rows), open_verifier(config))
    context = {
        "estimate": estimate,
        "num_all": form.version.stretch(form.split).num_rows,
        "misfits": misfits[:NUM_MISFITS_SHOWN],
        "num_misfits": len(misfits),
        "num_checked": len(rows),
    }
    return render(request, "evals/_size.html", context)


@require_POST
@editors_only
def offer_fragment(request: HttpRequest) -> HttpResponse:
    """What the deployment would cost that the form asks for; makes none, and needs no consent."""
    user = signed_in(request)
    form = EvalForm(user, request.POST)
    if "serving" not in form.settings:
        return render(request, "runs/_offer.html", {"refusal": "What is chosen answers without a deployment."})
    if not form.settings["serving"].is_valid():
        return render(request, "runs/_offer.html", {"refusal": " ".join(mistakes_in(form.settings["serving"]))})
    try:
        return render(request, "runs/_offer.html", {"sentence": _offer(form, user)})
    except (BackendError, ConfigError, TooOften) as error:
        return render(request, "runs/_offer.html", {"refusal": str(error)})


def _offer(form: EvalForm, user: User) -> str:
    return offer_for(form.asked(), user, serving=form.settings["serving"].params())


@require_POST
@editors_only
def export_fragment(request: HttpRequest) -> HttpResponse:
    return export_of(request, EvalForm(signed_in(request), request.POST), EvalConfig, "evals")


@require_POST
@editors_only
def starter(request: HttpRequest) -> HttpResponse:
    """The bundled benchmark (the same one when asked again), then the form to evaluate on it."""
    user = signed_in(request)
    benchmark = import_starter_benchmark(user.default_project(), user)
    return redirect(f"{reverse('evals:new')}?benchmark={benchmark.pk}")


def starting_point(request: HttpRequest, user: User) -> dict[str, Any]:
    """What the address asks for: an eval to clone, a checkpoint, a benchmark, a dataset of tasks. Else the newest benchmark."""
    start: dict[str, Any] = {}
    clone = EvalRun.objects.visible_to(user).filter(pk=asked_number(request, "clone"), is_imported=False).first()
    if clone is not None:
        start = _start_of(clone, user)
    if saved := checkpoints_for(user).filter(pk=asked_number(request, "checkpoint")).first():
        start |= {"source": "checkpoint", "checkpoint": saved.pk}
    benchmarks = benchmarks_for(user)
    if version := task_versions_for(user).filter(pk=asked_number(request, "dataset_version")).first():
        start["dataset_version"] = version.pk
        benchmarks = benchmarks.filter(dataset_version=version)
    asked = benchmarks.filter(pk=asked_number(request, "benchmark")).first()
    if chosen := asked or (None if clone else benchmarks.first()):
        start["benchmark"] = chosen.pk
    start.setdefault("dataset_version", _newest_tasks(user))
    return start


def _newest_tasks(user: User) -> int | None:
    newest = task_versions_for(user).order_by("-created_at", "-pk").first()
    return newest.pk if newest else None


def _start_of(clone: EvalRun, user: User) -> dict[str, Any]:
    """Starting values that repeat an eval, with what of it is still there."""
    config = EvalConfig.model_validate(clone.config)
    start = {**start_from(config), "name": next_name(clone.name), "cloned_from": clone.pk}
    if clone.benchmark_id and benchmarks_for(user).filter(pk=clone.benchmark_id).exists():
        start["benchmark"] = clone.benchmark_id
    if config.model is not None and config.model.checkpoint:
        saved = checkpoints_for(user).filter(sampler_uri=config.model.checkpoint).first()
        if saved is not None:
            start |= {"source": "checkpoint", "checkpoint": saved.pk}
    if config.endpoint is not None and config.endpoint.credential:
        key = BackendCredential.objects.filter(project=clone.project_id, name=config.endpoint.credential).first()
        start["credential"] = key.pk if key else None
    return start


@transaction.atomic
def _launch(form: EvalForm, user: User, key: str | None) -> EvalRun:
    """Raises ConfigError, DataError or PermissionDenied, and then leaves no benchmark behind either."""
    project = form.version.dataset.project
    try:
        benchmark = form.benchmark or benchmark_of(
            user=user,
            project=project,
            dataset_version=form.version,
            verifier=form.verifier,
            name=form.benchmark_name,
            split=form.split,
        )
    except ConfigError as error:
        raise ConfigError(str(error), path=("benchmark_name",) if error.path == ("name",) else error.path) from None
    return launch_eval(
        user=user,
        project=project,
        config=form.config,
        benchmark=benchmark,
        checkpoint=form.checkpoint,
        idempotency_key=key,
        cloned_from=form.choices.cleaned_data["cloned_from"],
    )


def _page(request: HttpRequest, form: EvalForm) -> HttpResponse:
    user = signed_in(request)
    context = {
        "form": form,
        "models": models_on_offer(user),
        "has_tasks": task_versions_for(user).exists(),
        "failures": load_failures(verifiers, backends),
    }
    return render(request, "evals/new.html", context, status=422 if form.num_errors() else 200)
