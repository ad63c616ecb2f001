"""The datasets panel of the admin: upload and validate by the same action as the pages, preview, counts, who and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from evsys_web.accounts.admin import Audited, NewestFormSet, ProjectFilter
from evsys_web.accounts.views import signed_in
from evsys_web.datasets import actions
from evsys_web.datasets.chats import shown_row
from evsys_web.datasets.forms import AdminUploadForm
from evsys_web.datasets.intake import ReadingNeeded, RowsRefused
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.datasets.views import on_disk, say_imported
from recipes.errors import ConfigError, DataError

PREVIEW_ROWS = 5


class VersionInline(admin.TabularInline[DatasetVersion, Dataset]):
    model = DatasetVersion
    extra = 0
    can_delete = False
    show_change_link = True
    fields = ("number", "format", "num_rows", "num_left_out", "source", "created_by", "created_at")
    readonly_fields = fields
    ordering = ("-number",)
    formset = NewestFormSet
    verbose_name_plural = "newest versions"

    def get_queryset(self, request: HttpRequest) -> QuerySet[DatasetVersion]:
        return super().get_queryset(request).select_related("dataset", "created_by")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class SummarisedList(ChangeList):
    """Looks up the versions of the datasets on the page alone: in the list's own query a database counts those of every row
    before the page, too (PostgreSQL: 3 s for the last of 100,000)."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        shown = [dataset.pk for dataset in self.result_list]
        found = Dataset.objects.with_summary().select_related("project", "created_by").in_bulk(shown)
        self.result_list = [found[pk] for pk in shown if pk in found]


@admin.register(Dataset)
class DatasetAdmin(Audited, admin.ModelAdmin[Dataset]):
    list_display = ("name", "project", "rows_format", "rows", "versions_made", "updated", "created_by", "pages")
    list_filter = (("project", ProjectFilter),)
    show_full_result_count = False
    list_per_page = 50
    search_fields = ("name", "description")
    ordering = ("-pk",)
    readonly_fields = ("project", "created_by", "created_at")  # what was made of it stays in that project, too
    fields = ("name", "project", "description", "created_by", "created_at")
    inlines: ClassVar = [VersionInline]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return SummarisedList

    @admin.display(description="format")
    def rows_format(self, dataset: Any) -> str:
        return dataset.newest_format or "–"

    @admin.display(description="rows")
    def rows(self, dataset: Any) -> str:
        return f"{dataset.newest_rows:,}" if dataset.newest_rows is not None else "–"

    @admin.display(description="versions")
    def versions_made(self, dataset: Any) -> int:
        return int(dataset.num_versions)

    @admin.display(description="updated")
    def updated(self, dataset: Any) -> Any:
        return dataset.updated_at

    @admin.display(description="preview")
    def pages(self, dataset: Any) -> SafeString | str:
        return _page_links(dataset.newest_pk) if dataset.newest_pk else "–"

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Upload, or only validate. The stock form would write rows of this table without any rows of data."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        user = signed_in(request)
        sent = (request.POST, request.FILES) if request.method == "POST" else (None, None)
        form = AdminUploadForm(*sent, user=user)
        context = {**self.admin_site.each_context(request), "opts": self.opts, "form": form, "title": "Upload rows"}
        if request.method == "POST" and form.is_valid():
            try:
                return self._upload(request, form)
            except RowsRefused as why:
                context["refused"] = why.report
                why.errors_csv.close()
            except (ConfigError, DataError) as error:
                form.add_error(None, str(error))
        return render(request, "admin/datasets/dataset/upload.html", context)

    def _upload(self, request: HttpRequest, form: AdminUploadForm) -> HttpResponse:
        data, user = form.cleaned_data, signed_in(request)
        upload = on_disk(data["file"])
        where = {"user": user, "project": data["project"], "name": data["name"], "description": data["description"]}
        path, filename = Path(upload.temporary_file_path()), data["file"].name
        try:
            if "_validate" in request.POST:
                report = actions.validate_file(path=path, filename=filename)
                good = f"Every row is good: {report.count:,} of the format {report.format}."
                messages.success(request, f"{good} Nothing was stored.")
                return redirect("admin:datasets_dataset_add")
            imported = actions.import_dataset(**where, path=path, filename=filename, leave_out_bad=data["leave_out_bad"])
        except ReadingNeeded as why:
            staged = actions.stage_upload(**where, upload=upload, filename=filename, why=why)
            return redirect("datasets:staged", staged.pk)
        say_imported(request, imported)
        return redirect("admin:datasets_dataset_change", imported.version.dataset_id)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        actions.delete_dataset(user=signed_in(request), dataset=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Dataset]) -> None:
        for dataset in queryset:
            self.delete_model(request, dataset)


@admin.register(DatasetVersion)
class DatasetVersionAdmin(Audited, admin.ModelAdmin[DatasetVersion]):
    """Read only: a version never changes. Its rows can be validated again, looked at, or deleted."""

    list_display = ("reference", "project", "format", "num_rows", "size", "num_left_out", "created_by", "created_at", "pages")
    list_filter = ("format", ("dataset__project", ProjectFilter))
    show_full_result_count = False
    list_per_page = 50
    ordering = ("-pk",)
    search_fields = ("dataset__name", "source", "content_hash")
    list_select_related = ("dataset__project", "created_by")
    actions = ("validate",)
    fields = (
        *("reference", "project", "status", "format", "num_rows", "splits", "size", "num_left_out", "conversion", "source"),
        *("content_hash", "created_by", "created_at", "pages", "first_rows"),
    )
    readonly_fields = fields

    @admin.display(description="project", ordering="dataset__project__name")
    def project(self, version: DatasetVersion) -> str:
        return str(version.dataset.project)

    @admin.display(description="size", ordering="num_bytes")
    def size(self, version: DatasetVersion) -> str:
        return filesizeformat(version.num_bytes)

    @admin.display(description="preview")
    def pages(self, version: DatasetVersion) -> SafeString:
        return _page_links(version.pk)

    @admin.display(description="first rows")
    def first_rows(self, version: DatasetVersion) -> SafeString:
        turns = [
            (f"row {shown.number}", part.title or turn.role, turn.text[:2_000])
            for number, row in enumerate(version.rows_between(0, PREVIEW_ROWS), start=1)
            for shown in [shown_row(row, version.format, number)]
            for part in shown.parts
            for turn in part.turns[:20]
        ]
        return format_html("<dl>{}</dl>", format_html_join("", "<dt>{} · {}</dt><dd>{}</dd>", turns))

    @admin.action(description="Validate the stored rows again")
    def validate(self, request: HttpRequest, queryset: QuerySet[DatasetVersion]) -> None:
        for version in queryset.select_related("dataset"):
            found = actions.validate_version(version)
            level = messages.SUCCESS if found.is_sound else messages.ERROR
            messages.add_message(request, level, f"{version.reference}: {found.sentence}")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: DatasetVersion | None = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        actions.delete_version(user=signed_in(request), version=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[DatasetVersion]) -> None:
        for version in queryset.select_related("dataset"):
            self.delete_model(request, version)


def _page_links(version_id: int) -> SafeString:
    return format_html(
        '<a href="{}">rows</a> · <a href="{}">tokens</a> · <a href="{}">download</a>',
        reverse("datasets:detail", args=[version_id]),
        reverse("datasets:preview", args=[version_id]),
        reverse("datasets:download", args=[version_id]),
    )
