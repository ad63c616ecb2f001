from __future__ import annotations

from django.urls import path

from evsys_web.runs import form_views, live, rollout_views, views

app_name = "runs"
urlpatterns = [
    path("", views.run_list, name="list"),
    path("new", form_views.new_run, name="new"),
    path("new/settings", form_views.settings_fragment, name="settings"),
    path("new/estimate", form_views.estimate_fragment, name="estimate"),
    path("new/offer", form_views.offer_fragment, name="offer"),
    path("new/export", form_views.export_fragment, name="export"),
    path("new/again", form_views.again, name="again"),
    path("new/import", form_views.import_yaml, name="import"),
    path("compare", views.compare, name="compare"),
    path("<int:pk>/", views.run_detail, name="detail"),
    path("<int:pk>/header", views.run_header, name="header"),
    path("<int:pk>/checkpoints", views.run_checkpoints, name="checkpoints"),
    path("<int:pk>/checkpoints/<int:checkpoint_pk>", views.download_checkpoint, name="checkpoint"),
    path("<int:pk>/metrics.csv", views.download_metrics, name="csv"),
    path("<int:pk>/events", views.run_events, name="events"),
    path("<int:pk>/series", views.run_series, name="series"),
    path("<int:pk>/yaml", views.run_yaml, name="yaml"),
    path("<int:pk>/rollouts/", rollout_views.run_rollouts, name="rollouts"),
    path("<int:pk>/sanity", rollout_views.run_sanity, name="sanity"),
    path("<int:pk>/live", live.live, name="live"),
    path("<int:pk>/stop", views.stop, name="stop"),
    path("<int:pk>/resume", views.resume, name="resume"),
    path("<int:pk>/delete", views.delete, name="delete"),
]
