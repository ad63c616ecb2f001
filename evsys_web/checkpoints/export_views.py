"""The part of a checkpoint's page about merged weights and the hub."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from evsys_web.accounts.permissions import require_editor
from evsys_web.accounts.views import signed_in
from evsys_web.attachments import attachment, zip_chunks
from evsys_web.checkpoints.export_actions import launch_merge, launch_push, remove_export, stop_export
from evsys_web.checkpoints.forms import PushForm
from evsys_web.checkpoints.models import Export
from evsys_web.checkpoints.views import exports_context, found
from evsys_web.runs.work_pages import act
from recipes.errors import RecipeError


@require_safe
def exports_fragment(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "checkpoints/_exports.html", exports_context(found(request, pk)))


@require_POST
def merge(request: HttpRequest, pk: int) -> HttpResponse:
    checkpoint = found(request, pk)
    try:
        launch_merge(user=signed_in(request), checkpoint=checkpoint)
    except RecipeError as refusal:
        messages.error(request, str(refusal))
    return redirect(checkpoint)


@require_POST
def push(request: HttpRequest, pk: int) -> HttpResponse:
    checkpoint = found(request, pk)
    require_editor(signed_in(request), checkpoint.run.project)
    form = PushForm(checkpoint, request.POST)
    if form.is_valid():
        data = form.cleaned_data
        try:
            launch_push(
                user=signed_in(request),
                checkpoint=checkpoint,
                repository=data["repository"],
                credential=data["credential"].name,
                weights=data["weights"],
                is_private=data["is_private"],
                key=data["submission_key"],
            )
        except RecipeError as refusal:
            messages.error(request, str(refusal))
    else:
        messages.error(request, " ".join(f"{form[name].label}: {error}" for name, each in form.errors.items() for error in each))
    return redirect(checkpoint)


@require_POST
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    export = _export(request, pk)
    return act(request, lambda user: stop_export(user=user, export=export), back=export.checkpoint.get_absolute_url())


@require_POST
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    export = _export(request, pk)
    back = export.checkpoint.get_absolute_url()
    return act(request, lambda user: remove_export(user=user, export=export), back=back)


@require_safe
def download(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Merged weights as a zip, made while it is sent."""
    export = _export(request, pk)
    if not export.is_ready:
        messages.error(request, "These merged weights are not ready, or were removed.")
        return redirect(export.checkpoint)
    return export_zip(export)


def export_zip(export: Export) -> HttpResponseBase:
    """Of one that is ready."""
    files = sorted(path for path in export.folder.rglob("*") if path.is_file())
    name = f"run-{export.checkpoint.run_id}-{export.checkpoint.name}-merged.zip"
    return attachment(zip_chunks(export.folder, files), name, content_type="application/zip")


def _export(request: HttpRequest, pk: int) -> Export:
    exports = Export.objects.visible_to(signed_in(request)).select_related("checkpoint__run", "project")
    export: Export = get_object_or_404(exports, pk=pk)
    return export
