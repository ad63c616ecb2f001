"""Cycles in the admin: to look at and to delete."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from evsys_web.cycles.models import Cycle
from evsys_web.runs.admin import ReadOnly


@admin.register(Cycle)
class CycleAdmin(ReadOnly, admin.ModelAdmin[Cycle]):
    list_display = ("name", "project", "status", "stage", "round_number", "reason", "created_by", "created_at")
    list_filter = ("status", "reason", "project")
    search_fields = ("name", "created_by__username")
    list_select_related = ("project", "created_by")
    date_hierarchy = "created_at"
    readonly_fields = (
        *("status", "stage", "round_number", "reason", "place", "baseline", "current_eval", "current_run"),
        *("num_tokens", "num_seconds", "error_type", "error", "error_detail", "created_at", "started_at", "finished_at"),
    )

    def has_delete_permission(self, request: HttpRequest, obj: Cycle | None = None) -> bool:
        """Not while it is under way."""
        return super().has_delete_permission(request, obj) and not (obj is not None and obj.is_active)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Deleting many at once would not ask each cycle whether it is under way."""
        return {}
