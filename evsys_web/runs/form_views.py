"""The page that starts a run, and the fragments that keep it true while somebody types."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from evsys_web.accounts.models import User
from evsys_web.accounts.permissions import editors_only
from evsys_web.accounts.views import signed_in
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.rates import TooOften
from evsys_web.runs.actions import launch_run
from evsys_web.runs.backends import consents_of
from evsys_web.runs.estimates import estimate_run
from evsys_web.runs.forms import (
    DEFAULT_ALGORITHM,
    RunForm,
    algorithm_for,
    checkpoints_for,
    following,
    format_of,
    models_on_offer,
    start_from,
    versions_for,
)
from evsys_web.runs.launches import submission_of
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.offers import offer_for
from evsys_web.runs.work_pages import export_of
from recipes.config import RunConfig
from recipes.errors import BackendError, ConfigError
from recipes.registry import algorithms, backends, callbacks, load_failures

MAX_YAML_BYTES = 1_000_000


@require_http_methods(["GET", "HEAD", "POST"])
@editors_only
def new_run(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    if request.method != "POST":
        return _page(request, RunForm(user, start=starting_point(request, user)))
    form = RunForm(user, request.POST)
    if form.is_valid():
        try:
            run = launch_run(
                user=user,
                project=form.version.dataset.project,
                config=form.config,
                dataset_version=form.version,
                idempotency_key=submission_of(request.POST),
                cloned_from=form.choices.cleaned_data["cloned_from"],
            )
        except ConfigError as error:
            form.refuse(error)
        else:
            return redirect(run)
    return _page(request, form)


@require_POST
@editors_only
def again(request: HttpRequest) -> HttpResponse:
    """The form with these settings in it, for a page that was made from them. Nothing is started."""
    return _page(request, RunForm(signed_in(request), request.POST))


@require_POST
@editors_only
def settings_fragment(request: HttpRequest) -> HttpResponse:
    """The fields of another algorithm, backend or model; what was typed stays."""
    form = following(signed_in(request), request.POST)
    return render(request, "runs/_settings.html", {"form": form})


@require_POST
@editors_only
def estimate_fragment(request: HttpRequest) -> HttpResponse:
    """What the settings as typed will take; nothing is said of mistakes before the form is sent."""
    user = signed_in(request)
    form = RunForm(user, request.POST)
    context: dict[str, Any] = {"form": form}
    if form.is_valid():
        context["estimate"] = estimate_run(form.config, form.version, user)
        context["version"] = form.version
    else:
        context["mistakes"] = form.mistakes()
    return render(request, "runs/_estimate.html", context)


@require_POST
@editors_only
def offer_fragment(request: HttpRequest) -> HttpResponse:
    """What an hour of the machine would cost that the form asks for; makes none, and needs no consent."""
    user = signed_in(request)
    try:
        answer = {"sentence": offer_for(RunForm(user, request.POST), user)}
    except (BackendError, ConfigError, TooOften) as error:
        answer = {"refusal": str(error)}
    return render(request, "runs/_offer.html", answer)


@require_POST
@editors_only
def export_fragment(request: HttpRequest) -> HttpResponse:
    return export_of(request, RunForm(signed_in(request), request.POST), RunConfig, "runs")


@require_POST
@editors_only
def import_yaml(request: HttpRequest) -> HttpResponse:
    """YAML, pasted or as a file, becomes a filled-in form; nothing is started."""
    user = signed_in(request)
    text = request.POST.get("yaml", "")
    try:
        text = yaml_sent(request)
        config = RunConfig.from_yaml(text)
    except ConfigError as error:
        form = RunForm(user, start=starting_point(request, user))
        return _page(request, form, yaml_error=str(error), yaml_text=text)
    start, note = start_of(config, user)
    return _page(request, RunForm(user, start=start), yaml_note=note)


def yaml_sent(request: HttpRequest) -> str:
    """The text of the file that was chosen, else what was pasted. Raises ConfigError for none, or for what is no text."""
    upload = request.FILES.get("file")
    text = request.POST.get("yaml", "")
    if upload is not None:
        if (upload.size or 0) > MAX_YAML_BYTES:
            raise ConfigError("This file is larger than a megabyte; settings are not.")
        try:
            text = upload.read().decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigError("This file is no text.") from None
    if not text.strip():
        raise ConfigError("Paste a run's YAML, or choose a file.")
    return text


def starting_point(request: HttpRequest, user: User) -> dict[str, Any]:
    """What the address asks for: a dataset (version), an algorithm, a run to clone, or a checkpoint to go on from."""
    start: dict[str, Any] = {}
    clone, checkpoint = asked_number(request, "clone"), asked_number(request, "checkpoint")
    saved = checkpoints_for(user).filter(pk=checkpoint).first() if checkpoint else None
    origin = saved.run if saved else TrainingRun.objects.visible_to(user).filter(pk=clone).first() if clone else None
    if origin is not None:
        start = start_from(RunConfig.model_validate(origin.config))
        start["name"] = next_name(origin.name)
        start["dataset_version"] = origin.dataset_version_id
        if saved is not None:
            start["checkpoint"] = saved.pk
        else:
            start["cloned_from"] = origin.pk
            begun_from = start.pop("init_from_checkpoint", None)
            same = checkpoints_for(user).filter(sampler_uri=begun_from).first() if begun_from else None
            start["checkpoint"] = same.pk if same else None
    if (asked := request.GET.get("algorithm", "")) in algorithms.kinds():
        start["algorithm"] = asked
    if version := asked_number(request, "dataset_version") or asked_number(request, "dataset"):
        start["dataset_version"] = version
    elif "dataset_version" not in start and (newest := _newest(user, str(start.get("algorithm", "")))):
        start["dataset_version"] = newest.pk
    chosen = versions_for(user).filter(pk=start.get("dataset_version") or 0).first()
    if "algorithm" not in start and chosen is not None:
        start["algorithm"] = algorithm_for(chosen.format)
    return start


def _newest(user: User, algorithm: str) -> DatasetVersion | None:
    """With rows for the algorithm that is asked for; else for the one that is shown first, if there is such a version."""
    newest = versions_for(user).order_by("-created_at", "-pk")
    if algorithm:
        needed = format_of(algorithm)
        return newest.first() if needed is None else newest.filter(format=needed).first()
    return newest.filter(format=format_of(DEFAULT_ALGORITHM)).first() or newest.first()


def next_name(name: str) -> str:
    """`sums` → `sums 2`, `sums 2` → `sums 3`."""
    stem, _, number = name.rpartition(" ")
    if stem and number.isdecimal() and len(number) < 6:
        return f"{stem} {int(number) + 1}"
    return f"{name[:190]} 2"


def start_of(config: RunConfig, user: User) -> tuple[dict[str, Any], str]:
    """Starting values for a config from outside, and what of it could not be taken over."""
    start = start_from(config)
    start.pop("init_from_checkpoint", None)
    notes = []
    if config.data.dataset is None:
        notes.append("It reads rows from a file; choose a dataset instead.")
    else:
        try:
            start["dataset_version"] = Dataset.objects.resolve(config.data.dataset, user).pk
        except ConfigError as error:
            notes.append(f"{error} Choose another one.")
    if config.model.init_from_checkpoint:
        saved = checkpoints_for(user).filter(sampler_uri=config.model.init_from_checkpoint).first()
        start["checkpoint"] = saved.pk if saved else None
        notes += [] if saved else ["The checkpoint that it begins from is not here; choose where to begin."]
    if any(config.backend.params.get(name) is True for name in consents_of(config.backend.kind)):
        notes.append("Its consent to pay is not taken over: agree anew in the settings.")
    return start, " ".join(notes) or "Taken over. Look it over, then start."


def asked_number(request: HttpRequest, name: str) -> int:
    """A row's number in the address; 0, which no row has, for none or anything else."""
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _page(request: HttpRequest, form: RunForm, **context: Any) -> HttpResponse:
    user = signed_in(request)
    context |= {
        "form": form,
        "models": models_on_offer(user),
        "has_datasets": DatasetVersion.objects.ready().editable_by(user).exists(),
        "failures": load_failures(algorithms, backends, callbacks),
    }
    return render(request, "runs/new.html", context)
