"""The page that brings in attempts made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods
from django_htmx.http import HttpResponseClientRedirect

from evsys_web.accounts.permissions import editors_only
from evsys_web.accounts.views import signed_in
from evsys_web.datasets.views import on_disk
from evsys_web.evals.import_actions import AttemptsRefused, ImportedRun, counted, import_attempts, mixed_models
from evsys_web.evals.import_form import ImportForm
from recipes.errors import ConfigError, DataError

NUM_SHOWN = 20


@require_http_methods(["GET", "HEAD", "POST"])
@editors_only
def upload(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    sent = (request.POST, request.FILES) if request.method == "POST" else (None, None)
    form = ImportForm(*sent, user=user)
    if request.method == "POST" and form.is_valid():
        try:
            imported = _import(request, form.cleaned_data)
        except AttemptsRefused as refusal:
            form.add_error(None, _sentences(refusal))
        except (ConfigError, DataError) as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, _said(imported))
            url = imported.run.get_absolute_url()
            # The script that shows progress goes there itself, so that the page is fetched once.
            return HttpResponseClientRedirect(url) if request.headers.get("X-Progress") else redirect(url)
    return render(request, "evals/import.html", {"form": form}, status=422 if form.errors else 200)


def _import(request: HttpRequest, data: dict[str, Any]) -> ImportedRun:
    wanted = ("project", "name", "benchmark", "model_label", "only_model", "trajectory", "leave_out_bad")
    file = on_disk(data["file"])
    return import_attempts(
        user=signed_in(request),
        path=Path(file.temporary_file_path()),
        filename=data["file"].name,
        **{key: data[key] for key in wanted},
    )


def _sentences(refusal: AttemptsRefused) -> list[str]:
    """One for the whole, then the first refusals."""
    report = refusal.report
    if not report.refused:
        return [str(refusal)]
    good = f" The other {report.num_attempts:,} can be imported: leave out the bad ones below." if report.num_attempts else ""
    if refusal.clash:
        good = f" {refusal.clash} It is named under “Only attempts by”."
    first = f" The first {NUM_SHOWN}:" if report.num_refused > NUM_SHOWN else ""
    whole = f"{report.num_refused:,} refused, and nothing was imported.{good}{first}"
    return [whole, *map(str, report.refused[:NUM_SHOWN])]


def _said(imported: ImportedRun) -> str:
    report = imported.report
    parts = [f"{counted(report.num_attempts, 'attempt')} at {counted(report.num_tasks, 'task')} imported."]
    if mixed := mixed_models(report):
        parts.append(mixed)
    if report.num_refused:
        parts.append(f"{report.num_refused:,} bad left out.")
    parts += [f"{number:,} passed over: {reason}." for reason, number in report.passed_over.items()]
    return " ".join(parts)
