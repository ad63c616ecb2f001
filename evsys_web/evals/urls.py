from __future__ import annotations

from django.urls import path

from evsys_web.evals import form_views, import_views, live, views

app_name = "evals"
urlpatterns = [
    path("", views.eval_list, name="list"),
    path("new", form_views.new_eval, name="new"),
    path("new/settings", form_views.settings_fragment, name="settings"),
    path("new/size", form_views.size_fragment, name="size"),
    path("new/offer", form_views.offer_fragment, name="offer"),
    path("new/export", form_views.export_fragment, name="export"),
    path("new/starter", form_views.starter, name="starter"),
    path("compare", views.compare, name="compare"),
    path("import", import_views.upload, name="import"),
    path("benchmarks/", views.benchmark_list, name="benchmarks"),
    path("benchmarks/<int:pk>/", views.benchmark_detail, name="benchmark"),
    path("<int:pk>/", views.eval_detail, name="detail"),
    path("<int:pk>/header", views.eval_header, name="header"),
    path("<int:pk>/figures", views.eval_figures, name="figures"),
    path("<int:pk>/tasks", views.eval_tasks, name="tasks"),
    path("<int:pk>/tasks/<int:position>", views.task_detail, name="task"),
    path("<int:pk>/curve", views.eval_curve, name="curve"),
    path("<int:pk>/events", views.eval_events, name="events"),
    path("<int:pk>/yaml", views.eval_yaml, name="yaml"),
    path("<int:pk>/live", live.live, name="live"),
    path("<int:pk>/stop", views.stop, name="stop"),
    path("<int:pk>/resume", views.resume, name="resume"),
    path("<int:pk>/retry-errors", views.retry, name="retry-errors"),
    path("<int:pk>/delete", views.delete, name="delete"),
]
