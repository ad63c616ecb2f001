"""Curations and saved filters in the admin: to look at and to delete."""

from __future__ import annotations

from django.contrib import admin

from evsys_web.accounts.admin import ProjectFilter
from evsys_web.curation.models import Curation, Filter
from evsys_web.runs.admin import ReadOnly


@admin.register(Curation)
class CurationAdmin(ReadOnly, admin.ModelAdmin[Curation]):
    list_display = ("name", "project", "filter_text", "dataset_reference", "created_by", "created_at")
    list_filter = (("project", ProjectFilter), "created_at")
    search_fields = ("name", "dataset_reference", "created_by__username")
    list_select_related = ("project", "created_by")


@admin.register(Filter)
class FilterAdmin(ReadOnly, admin.ModelAdmin[Filter]):
    list_display = ("name", "project", "text", "created_by", "updated_at")
    list_filter = (("project", ProjectFilter),)
    search_fields = ("name",)
    list_select_related = ("project", "created_by")
