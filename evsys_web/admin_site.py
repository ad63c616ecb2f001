"""Django's admin with what people look after most on top: datasets, then the work done with them, then who may do what."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig as StockAdminConfig
from django.http import HttpRequest

ORDER = ("datasets", "runs", "sweeps", "evals", "curation", "cycles", "notifications", "accounts")


class EvSysAdminSite(AdminSite):
    site_header = "EvSys admin"
    site_title = "EvSys admin"
    index_title = "Administration"

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        apps = super().get_app_list(request, app_label)
        return sorted(apps, key=lambda app: ORDER.index(app["app_label"]) if app["app_label"] in ORDER else len(ORDER))


class AdminConfig(StockAdminConfig):
    default_site = "evsys_web.admin_site.EvSysAdminSite"
