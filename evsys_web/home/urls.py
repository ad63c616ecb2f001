from __future__ import annotations

from django.urls import path

from evsys_web.home import health, operations_views, views

app_name = "home"
urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("starter", views.starter, name="starter"),
    path("search", views.search, name="search"),
    path("operations/", operations_views.operations_page, name="operations"),
    path("operations/storage", operations_views.test_storage, name="test-storage"),
    path("metrics", operations_views.metrics, name="metrics"),
    path("health/live", health.live, name="live"),
    path("health/ready", health.ready, name="ready"),
]
