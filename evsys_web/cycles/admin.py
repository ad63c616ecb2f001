"""Cycles in the admin: to look at, stop, resume and delete."""

from __future__ import annotations

from django.contrib import admin

from evsys_web.accounts.admin import ProjectFilter
from evsys_web.cycles import actions
from evsys_web.cycles.models import Cycle
from evsys_web.runs.admin import WorkAdmin


@admin.register(Cycle)
class CycleAdmin(WorkAdmin):
    list_display = ("name", "project", "status", "stage", "round_number", "reason", "created_by", "created_at")
    list_filter = ("status", "reason", ("project", ProjectFilter), "created_at")
    search_fields = ("name", "created_by__username")
    list_select_related = ("project", "created_by")
    readonly_fields = (
        *("status", "stage", "round_number", "reason", "place", "baseline", "current_eval", "current_run"),
        *("num_tokens", "num_seconds", "error_type", "error", "error_detail", "created_at", "started_at", "finished_at"),
    )
    stop = staticmethod(lambda user, cycle: actions.stop_cycle(user=user, cycle=cycle))
    resume = staticmethod(lambda user, cycle: actions.resume_cycle(user=user, cycle=cycle))
    delete = staticmethod(lambda user, cycle: actions.delete_cycle(user=user, cycle=cycle))
