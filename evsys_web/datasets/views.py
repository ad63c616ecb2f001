"""Datasets: list, upload, one version as chats, its tokens, download, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.contrib import messages
from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRedirect

from evsys_web.accounts.permissions import editors_only, require_editor
from evsys_web.accounts.views import signed_in
from evsys_web.datasets import actions
from evsys_web.datasets.browser import Asked, browse, tabs
from evsys_web.datasets.downloads import ExportFormat, version_download
from evsys_web.datasets.forms import UploadForm
from evsys_web.datasets.intake import ReadingNeeded, RowsRefused, SpilledFile
from evsys_web.datasets.lineage import dependents
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.datasets.search import FIELDS
from evsys_web.datasets.tokens import TokenForm, count_sample, preview_rows
from recipes.errors import ConfigError, DataError

DATASETS_PER_PAGE = 50


@require_GET
def list_datasets(request: HttpRequest) -> HttpResponse:
    datasets = (
        Dataset.objects.visible_to(signed_in(request)).with_summary().select_related("project").order_by("-updated_at", "-pk")
    )
    page = Paginator(datasets, DATASETS_PER_PAGE).get_page(request.GET.get("page"))
    num_projects = len({dataset.project_id for dataset in page})
    return render(request, "datasets/list.html", {"page": page, "shows_project": num_projects > 1})


@require_http_methods(["GET", "POST"])
@editors_only
def upload(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    sent = (request.POST, request.FILES) if request.method == "POST" else (None, None)
    form = UploadForm(*sent, user=user, initial={"name": request.GET.get("name", "")})
    if request.method == "POST" and form.is_valid():
        try:
            return _gone_to(request, _import(request, form.cleaned_data))
        except (ConfigError, DataError) as error:
            form.add_error(None, str(error))
    return render(request, "datasets/upload.html", {"form": form}, status=422 if form.errors else 200)


def _import(request: HttpRequest, data: dict[str, Any]) -> str:
    """Import what the form holds, or keep it until its owner has decided; gives the address to go to."""
    user, upload = signed_in(request), on_disk(data["file"])
    where = {"user": user, "project": data["project"], "name": data["name"], "description": data["description"]}
    try:
        imported = actions.import_dataset(**where, path=Path(upload.temporary_file_path()), filename=data["file"].name)
    except (ReadingNeeded, RowsRefused) as why:
        staged = actions.stage_upload(**where, upload=upload, filename=data["file"].name, why=why)
        return reverse("datasets:staged", args=[staged.pk])
    say_imported(request, imported)
    return imported.version.get_absolute_url()


def on_disk(file: UploadedFile[Any] | Any) -> TemporaryUploadedFile:
    """The upload as a file with a path, whether it came as a file or was pasted."""
    if isinstance(file, TemporaryUploadedFile):
        return file
    spilled = SpilledFile(file.name or "upload")
    for chunk in file.chunks():
        spilled.stream.write(chunk)
    spilled.finish()
    return spilled


def _gone_to(request: HttpRequest, url: str) -> HttpResponse:
    """A redirect; to the script that shows progress as a header, so that the page it goes to is fetched once."""
    return HttpResponseClientRedirect(url) if request.headers.get("X-Progress") else redirect(url)


def say_imported(request: HttpRequest, imported: actions.Imported) -> None:
    version = imported.version
    if not imported.created:
        messages.info(request, f"{version.reference} already has exactly these rows; no new version was made.")
        return
    rows = "1 row" if version.num_rows == 1 else f"{version.num_rows:,} rows"
    parts = [f"{rows} imported as {version.reference}."]
    if version.conversion:
        parts.append(f"Converted: {version.conversion}.")
    if version.num_left_out:
        parts.append(f"{version.num_left_out:,} bad rows left out.")
    if imported.metadata_keys:
        parts.append(f"Kept as metadata: {', '.join(imported.metadata_keys)}.")
    messages.success(request, " ".join(parts))


@require_POST
@editors_only
def add_starter_rows(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    return redirect(actions.import_starter_rows(user.default_project(), user))


@require_GET
def dataset(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Dataset.objects.visible_to(signed_in(request)), pk=pk)
    newest = found.newest()
    return redirect(newest) if newest else render(request, "datasets/without_versions.html", {"dataset": found})


def ready_version(request: HttpRequest, pk: int) -> DatasetVersion:
    """404 for one that is not there or not the person's."""
    versions = DatasetVersion.objects.ready().visible_to(signed_in(request))
    version: DatasetVersion = get_object_or_404(versions.select_related("dataset__project", "created_by"), pk=pk)
    return version


@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    version = ready_version(request, pk)
    asked = Asked.of(request.GET)
    context: dict[str, Any] = {"version": version, "asked": asked, "fields": FIELDS, "tab": "rows"}
    try:
        found = browse(version, asked)
        context |= {"found": found, "rows": found.rows, "split_tabs": tabs(version, found.within)}
    except DataError as error:
        context |= {"error": str(error)}
    if request.headers.get("HX-Request"):
        return render(request, "datasets/_rows.html", context)
    return render(request, "datasets/detail.html", context | _frame(version))


def _frame(version: DatasetVersion) -> dict[str, Any]:
    return {"versions": version.dataset.versions.ready().select_related("created_by").order_by("-number")[:200]}


@require_GET
def tokens(request: HttpRequest, pk: int) -> HttpResponse:
    """A fragment: token counts with a model's own tokenizer. Apart from the page, since loading a tokenizer takes a second."""
    version = ready_version(request, pk)
    form = TokenForm(request.GET)
    context: dict[str, Any] = {"version": version, "form": form}
    try:
        context["sample"] = count_sample(version, form)
    except (ConfigError, DataError) as error:
        context["error"] = str(error)
    return render(request, "datasets/_tokens.html", context)


@require_GET
def preview(request: HttpRequest, pk: int) -> HttpResponse:
    version = ready_version(request, pk)
    form = TokenForm(request.GET)
    context: dict[str, Any] = {"version": version, "form": form, "tab": "preview"}
    if request.headers.get("HX-Request"):
        try:
            context["preview"] = preview_rows(version, form)
        except (ConfigError, DataError) as error:
            context["error"] = str(error)
        return render(request, "datasets/_preview.html", context)
    return render(request, "datasets/preview.html", context | _frame(version))


@require_GET
def download(request: HttpRequest, pk: int) -> HttpResponseBase:
    version = ready_version(request, pk)
    try:
        format = ExportFormat(request.GET.get("format", ExportFormat.JSONL))
        return version_download(version, format=format, split=request.GET.get("split") or None)
    except ValueError as error:
        if not isinstance(error, ConfigError | DataError):
            raise Http404 from None
        messages.error(request, str(error))
        return redirect(version)


@require_http_methods(["GET", "POST"])
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    user = signed_in(request)
    found = get_object_or_404(Dataset.objects.visible_to(user), pk=pk)
    require_editor(user, found.project)
    if request.method == "POST":
        actions.delete_dataset(user=user, dataset=found)
        messages.success(request, f"{found.name} and its files are deleted.")
        return redirect("datasets:list")
    versions = list(found.versions.ready())
    context = {"dataset": found, "versions": versions, "dependents": dependents(versions)}
    return render(request, "datasets/delete.html", context)


@require_http_methods(["GET", "POST"])
def delete_one(request: HttpRequest, pk: int) -> HttpResponse:
    version, user = ready_version(request, pk), signed_in(request)
    require_editor(user, version.dataset.project)
    if request.method == "POST":
        actions.delete_version(user=user, version=version)
        messages.success(request, f"{version.reference} and its files are deleted.")
        return redirect(version.dataset)
    context = {"dataset": version.dataset, "version": version, "versions": [version], "dependents": dependents([version])}
    return render(request, "datasets/delete.html", context)
