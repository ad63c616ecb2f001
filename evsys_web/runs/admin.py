"""Runs in the admin: to look at and to delete. What changes a run is an action, not a form."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest

from evsys_web.runs.models import Checkpoint, TrainingRun


class ReadOnly:
    """Rows are made by workers and actions alone."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class CheckpointInline(ReadOnly, admin.TabularInline[Checkpoint, TrainingRun]):
    model = Checkpoint
    fields = ("name", "step", "state_uri", "sampler_uri", "created_at")
    can_delete = False


@admin.register(TrainingRun)
class TrainingRunAdmin(ReadOnly, admin.ModelAdmin[TrainingRun]):
    list_display = ("name", "project", "status", "algorithm", "backend", "step", "num_steps", "created_by", "created_at")
    list_filter = ("status", "is_external", "project")
    search_fields = ("name", "dataset_reference", "created_by__username")
    list_select_related = ("project", "created_by")
    date_hierarchy = "created_at"
    readonly_fields = (
        "status",
        "attempt",
        "step",
        "num_steps",
        "lease_owner",
        "lease_until",
        "error_type",
        "error",
        "error_detail",
        "created_at",
        "started_at",
        "finished_at",
    )
    inlines: ClassVar[list[Any]] = [CheckpointInline]

    def has_delete_permission(self, request: HttpRequest, obj: TrainingRun | None = None) -> bool:
        """Not while a worker holds it."""
        return super().has_delete_permission(request, obj) and not (obj is not None and obj.is_active)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Deleting many at once would not ask each run whether it is running."""
        return {}
