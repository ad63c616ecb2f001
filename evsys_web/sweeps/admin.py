"""Sweeps in the admin: to look at. They are deleted on their page, which takes their runs along."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from evsys_web.accounts.admin import ProjectFilter
from evsys_web.runs.admin import ReadOnly
from evsys_web.sweeps.models import Sweep


@admin.register(Sweep)
class SweepAdmin(ReadOnly, admin.ModelAdmin[Sweep]):
    list_display = ("name", "project", "dataset_reference", "created_by", "created_at")
    list_filter = (("project", ProjectFilter), "created_at")
    search_fields = ("name", "created_by__username")
    list_select_related = ("project", "created_by")
    readonly_fields = ("created_at",)

    def has_delete_permission(self, request: HttpRequest, obj: Sweep | None = None) -> bool:
        return False
