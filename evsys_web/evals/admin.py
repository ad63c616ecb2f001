"""Benchmarks and eval runs in the admin: to look at, stop, resume and delete. Attempts are read on the eval's own pages, to which
each row leads: there are millions, of which a list here would count and sort all, and none is ever changed by hand."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from evsys_web.accounts.admin import ProjectFilter
from evsys_web.accounts.views import signed_in
from evsys_web.evals import actions
from evsys_web.evals.models import Benchmark, EvalRun
from evsys_web.runs.admin import ReadOnly, WorkAdmin


@admin.register(Benchmark)
class BenchmarkAdmin(ReadOnly, admin.ModelAdmin[Benchmark]):
    list_display = ("name", "project", "dataset_reference", "verifier_kind", "num_tasks", "created_by", "created_at")
    list_filter = (("project", ProjectFilter),)
    search_fields = ("name", "dataset_reference")
    list_select_related = ("project", "created_by")

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        actions.delete_benchmark(user=signed_in(request), benchmark=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Benchmark]) -> None:
        for benchmark in queryset:
            self.delete_model(request, benchmark)


@admin.register(EvalRun)
class EvalRunAdmin(WorkAdmin):
    list_display = ("name", "project", "status", "model_label", "k", "num_tasks", "kept_attempts", "num_errors", "created_at")
    list_filter = ("status", "is_imported", ("project", ProjectFilter), "created_at")
    search_fields = ("name", "model_label", "dataset_reference", "created_by__username")
    list_select_related = ("project",)
    readonly_fields = (
        *("kept_attempts", "status", "attempt", "num_tasks", "num_done", "num_errors", "summary", "lease_owner", "lease_until"),
        *("error_type", "error", "error_detail", "created_at", "started_at", "finished_at"),
    )

    @admin.display(description="attempts", ordering="num_done")
    def kept_attempts(self, run: EvalRun) -> SafeString:
        return format_html('<a href="{}#tasks">{} kept, by task</a>', run.get_absolute_url(), f"{run.num_done:,}")

    stop = staticmethod(lambda user, run: actions.stop_eval(user=user, run=run))
    resume = staticmethod(lambda user, run: actions.resume_eval(user=user, run=run))
    delete = staticmethod(lambda user, run: actions.delete_eval(user=user, run=run))
