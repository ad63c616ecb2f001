"""Benchmarks and eval runs in the admin: to look at and to delete."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from evsys_web.evals.models import Benchmark, EvalRun
from evsys_web.runs.admin import ReadOnly


@admin.register(Benchmark)
class BenchmarkAdmin(ReadOnly, admin.ModelAdmin[Benchmark]):
    list_display = ("name", "project", "dataset_reference", "verifier_kind", "num_tasks", "created_by", "created_at")
    list_filter = ("project",)
    search_fields = ("name", "dataset_reference")
    list_select_related = ("project", "created_by")


@admin.register(EvalRun)
class EvalRunAdmin(ReadOnly, admin.ModelAdmin[EvalRun]):
    list_display = ("name", "project", "status", "model_label", "k", "num_tasks", "num_done", "num_errors", "created_at")
    list_filter = ("status", "is_imported", "project")
    search_fields = ("name", "model_label", "dataset_reference", "created_by__username")
    list_select_related = ("project",)
    date_hierarchy = "created_at"
    readonly_fields = (
        *("status", "attempt", "num_tasks", "num_done", "num_errors", "summary", "lease_owner", "lease_until"),
        *("error_type", "error", "error_detail", "created_at", "started_at", "finished_at"),
    )

    def has_delete_permission(self, request: HttpRequest, obj: EvalRun | None = None) -> bool:
        """Not while a worker holds it."""
        return super().has_delete_permission(request, obj) and not (obj is not None and obj.is_active)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Deleting many at once would not ask each run whether it is running."""
        return {}
