"""Every URL of the product on one screen."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.urls import URLPattern, URLResolver, include, path

from evsys_web.accounts.urls import names_that_allauth_knows
from evsys_web.api.api import api


def open_to_tokens(patterns: list[URLPattern | URLResolver]) -> list[URLPattern | URLResolver]:
    """LoginRequiredMiddleware would answer API calls with a redirect; the API refuses anonymous callers itself."""
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            pattern.callback = login_not_required(pattern.callback)
    return patterns


api_patterns, api_app_name, api_namespace = api.urls

urlpatterns = [
    path("", include("evsys_web.home.urls")),
    path("accounts/", include("evsys_web.accounts.urls")),
    path("accounts/", include(names_that_allauth_knows)),
    path("datasets/", include("evsys_web.datasets.urls")),
    path("runs/checkpoints/", include("evsys_web.checkpoints.urls")),
    path("runs/", include("evsys_web.runs.urls")),
    path("evals/", include("evsys_web.evals.urls")),
    path("cycles/", include("evsys_web.cycles.urls")),
    path("sweeps/", include("evsys_web.sweeps.urls")),
    path("queue/", include("evsys_web.queue.urls")),
    path("curation/", include("evsys_web.curation.urls")),
    path("notifications/", include("evsys_web.notifications.urls")),
    path("api/", include((open_to_tokens(api_patterns), api_app_name), namespace=api_namespace)),
    path("admin/", admin.site.urls),
]
handler400 = "evsys_web.home.views.bad_request"
handler500 = "evsys_web.home.views.broken"
