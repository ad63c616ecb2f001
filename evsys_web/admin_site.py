"""Django's admin with what people look after most on top: datasets, then the work done with them, then who may do what."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig as StockAdminConfig
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

ORDER = ("datasets", "runs", "sweeps", "evals", "curation", "cycles", "notifications", "accounts")


class EvSysAdminSite(AdminSite):
    site_header = "EvSys admin"
    site_title = "EvSys admin"
    index_title = "Administration"

    @method_decorator(never_cache)
    @method_decorator(login_not_required)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """There is one page to sign in: with its lockout, its second step and single sign-on."""
        there = request.GET.get(REDIRECT_FIELD_NAME) or reverse("admin:index", current_app=self.name)
        if request.user.is_authenticated:
            if not self.has_permission(request):
                raise PermissionDenied("The admin is for staff. An administrator can make you staff.")
            return redirect("admin:index")
        if request.method == "POST":
            from evsys_web.accounts.views import LoginView  # this module is loaded before any model

            response = LoginView.as_view()(request)
            assert isinstance(response, HttpResponse)
            return response
        from django.contrib.auth.views import redirect_to_login  # so does this one load them

        return redirect_to_login(there)

    def password_change(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """There is one page for this, too: with its lockout, and an entry in the audit log."""
        return redirect("accounts:password")

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        apps = super().get_app_list(request, app_label)
        return sorted(apps, key=lambda app: ORDER.index(app["app_label"]) if app["app_label"] in ORDER else len(ORDER))


class AdminConfig(StockAdminConfig):
    default_site = "evsys_web.admin_site.EvSysAdminSite"
