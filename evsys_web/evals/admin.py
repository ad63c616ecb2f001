"""Benchmarks and eval runs in the admin: to look at, stop, resume and delete."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

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
    list_display = ("name", "project", "status", "model_label", "k", "num_tasks", "num_done", "num_errors", "created_at")
    list_filter = ("status", "is_imported", ("project", ProjectFilter), "created_at")
    search_fields = ("name", "model_label", "dataset_reference", "created_by__username")
    list_select_related = ("project",)
    readonly_fields = (
        *("status", "attempt", "num_tasks", "num_done", "num_errors", "summary", "lease_owner", "lease_until"),
        *("error_type", "error", "error_detail", "created_at", "started_at", "finished_at"),
    )
    stop = staticmethod(lambda user, run: actions.stop_eval(user=user, run=run))
    resume = staticmethod(lambda user, run: actions.resume_eval(user=user, run=run))
    delete = staticmethod(lambda user, run: actions.delete_eval(user=user, run=run))
