"""Pages around the Hugging Face hub: publish a version, import a dataset, and how the transfers stand."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from evsys_web.accounts.models import User
from evsys_web.accounts.permissions import editors_only, require_editor
from evsys_web.accounts.views import signed_in
from evsys_web.datasets.downloads import ExportFormat
from evsys_web.datasets.hub_actions import go_again, import_from_hub, publish_version
from evsys_web.datasets.hub_forms import HubImportForm, PublishForm
from evsys_web.datasets.models import Direction, HubTransfer
from evsys_web.datasets.views import ready_version
from recipes.errors import ConfigError

SHOWN_TRANSFERS = 20


@require_http_methods(["GET", "POST"])
def publish_page(request: HttpRequest, pk: int) -> HttpResponse:
    version = ready_version(request, pk)
    user = signed_in(request)
    require_editor(user, version.dataset.project)
    transfers = HubTransfer.objects.filter(direction=Direction.PUSH, version__dataset=version.dataset_id)
    if request.headers.get("HX-Request"):
        return _list(request, transfers)
    form = PublishForm(request.POST if request.method == "POST" else None, version=version)
    if request.method == "POST" and form.is_valid():
        chosen = form.cleaned_data
        try:
            publish_version(
                user=user,
                version=version,
                repo_id=chosen["repo_id"],
                credential=chosen["credential"].name,
                private=chosen["private"],
                format=ExportFormat(chosen["format"]),
            )
        except ConfigError as error:
            _refuse(form, error)
        else:
            return redirect("datasets:publish", version.pk)
    context = {"version": version, "form": form, "tab": "publish", **_transfers(transfers)}
    context["versions"] = version.dataset.versions.ready().select_related("created_by").order_by("-number")[:200]
    return render(request, "datasets/publish.html", context, status=422 if form.errors else 200)


@require_http_methods(["GET", "POST"])
@editors_only
def import_page(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    transfers = HubTransfer.objects.visible_to(user).filter(direction=Direction.PULL)
    if request.headers.get("HX-Request"):
        return _list(request, transfers)
    form = HubImportForm(request.POST if request.method == "POST" else None, user=user)
    if request.method == "POST" and form.is_valid():
        chosen = form.cleaned_data
        key = chosen.pop("credential")
        try:
            import_from_hub(user=user, credential=key.name if key else "", **chosen)
        except ConfigError as error:
            _refuse(form, error)
        else:
            return redirect("datasets:hub")
    return render(request, "datasets/hub.html", {"form": form, **_transfers(transfers)}, status=422 if form.errors else 200)


@require_POST
def again(request: HttpRequest, pk: int) -> HttpResponse:
    user: User = signed_in(request)
    found: HubTransfer = get_object_or_404(HubTransfer.objects.visible_to(user).select_related("project").distinct(), pk=pk)
    if not go_again(user=user, found=found):
        messages.info(request, "This transfer is under way or done; it does not begin again.")
    if found.direction == Direction.PUSH and found.version_id:
        return redirect("datasets:publish", found.version_id)
    return redirect("datasets:hub")


def _list(request: HttpRequest, transfers: Any) -> HttpResponse:
    return render(request, "datasets/_transfers.html", _transfers(transfers))


def _transfers(transfers: Any) -> dict[str, Any]:
    listed = list(transfers.select_related("version__dataset", "created_by", "staged").distinct()[:SHOWN_TRANSFERS])
    return {"transfers": listed, "is_active": any(each.is_active and not each.can_go_again for each in listed)}


def _refuse(form: forms.Form, error: ConfigError) -> None:
    field = str(error.path[0]) if error.path else ""
    form.add_error(field if field in form.fields else None, str(error))
