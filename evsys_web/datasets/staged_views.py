"""An upload that waits for its owner's word: how its rows are to be read, or whether the bad ones are left out."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from evsys_web.accounts.permissions import require_editor
from evsys_web.accounts.views import signed_in
from evsys_web.datasets import actions
from evsys_web.datasets.chats import shown_row
from evsys_web.datasets.downloads import errors_download
from evsys_web.datasets.forms import CHOICES, MappingForm, chosen_reading
from evsys_web.datasets.intake import Proposal, ReadingNeeded, RowsRefused, preview, propose
from evsys_web.datasets.models import StagedUpload
from evsys_web.datasets.views import say_imported
from recipes.conversions import COLUMNS, Reading
from recipes.errors import ConfigError, DataError


def _staged(request: HttpRequest, pk: object) -> StagedUpload:
    user = signed_in(request)
    kept: StagedUpload = get_object_or_404(
        StagedUpload.objects.visible_to(user).select_related("project"), pk=pk, created_by=user
    )
    return kept


@require_http_methods(["GET", "POST"])
def staged(request: HttpRequest, pk: object) -> HttpResponse:
    kept = _staged(request, pk)
    if request.method == "POST":
        require_editor(signed_in(request), kept.project)
    if request.POST.get("action") == "discard":
        actions.discard_staged(user=signed_in(request), staged=kept)
        messages.info(request, "The upload was discarded. Nothing was stored.")
        return redirect("datasets:upload")
    with actions.local_copy(kept.file) as path:
        proposal = propose(path, kept.filename)
    context: dict[str, Any] = {"staged": kept, "proposal": proposal, "choices": CHOICES}
    reading = _stored_reading(kept) or proposal.reading
    forms = _mapping_forms(request, proposal)
    if request.method == "POST":
        try:
            reading = _asked_reading(request, forms) or reading
            if reading is None:
                raise ConfigError("Choose how the rows are to be read.")
            if request.POST.get("action") != "preview":
                return _imported(request, kept, reading, leave_out_bad=request.POST.get("action") == "leave_out")
        except (ReadingNeeded, RowsRefused) as why:
            actions.record_refusal(kept, why)
        except (ConfigError, ValidationError) as error:
            context["error"] = str(error) if isinstance(error, ConfigError) else "Choose a column for each part that is needed."
        except DataError as error:
            context["error"] = str(error)
    context |= {"reading": reading, "forms": forms, "previewed": request.POST.get("action") == "preview"}
    context["opened"] = reading.format if reading and reading.columns else next(iter(COLUMNS))
    context["examples"] = _examples(proposal, reading) if reading else []
    return render(request, "datasets/staged.html", context, status=422 if "error" in context else 200)


def _imported(request: HttpRequest, kept: StagedUpload, reading: Reading, *, leave_out_bad: bool) -> HttpResponse:
    imported = actions.import_staged(staged=kept, user=signed_in(request), reading=reading, leave_out_bad=leave_out_bad)
    say_imported(request, imported)
    return redirect(imported.version)


def _stored_reading(kept: StagedUpload) -> Reading | None:
    return Reading.from_values(kept.reading) if kept.reading else None


def _mapping_forms(request: HttpRequest, proposal: Proposal) -> list[MappingForm]:
    """One per format; only the one that was sent is bound."""
    sent = request.POST.get("reading", "")
    return [
        MappingForm(request.POST if sent == f"columns:{format.value}" else None, format=format, columns=proposal.columns)
        for format in COLUMNS
    ]


def _asked_reading(request: HttpRequest, forms: list[MappingForm]) -> Reading | None:
    choice = request.POST.get("reading", "")
    if not choice:
        return None
    for form in forms:
        if form.is_bound:
            if not form.is_valid():
                raise ValidationError("columns")
            return form.reading()
    return chosen_reading(choice)


def _examples(proposal: Proposal, reading: Reading) -> list[dict[str, Any]]:
    """The first rows as they stand and as they would be stored."""
    examples: list[dict[str, Any]] = []
    for number, (before, after) in enumerate(preview(proposal, reading), start=1):
        if isinstance(after, DataError):
            examples.append({"before": before, "error": str(after)})
        else:
            examples.append({"before": before, "row": shown_row(after, reading.format, number)})
    return examples


@require_GET
def errors(request: HttpRequest, pk: object) -> HttpResponseBase:
    kept = _staged(request, pk)
    if not kept.errors_file:
        raise Http404
    return errors_download(kept)
