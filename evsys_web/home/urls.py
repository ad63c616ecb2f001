from __future__ import annotations

from django.urls import path

from evsys_web.home import health, views

app_name = "home"
urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("starter", views.starter, name="starter"),
    path("search", views.search, name="search"),
    path("health/live", health.live, name="live"),
    path("health/ready", health.ready, name="ready"),
]
