from __future__ import annotations

from django.urls import path

from evsys_web.sweeps import form_views, views

app_name = "sweeps"
urlpatterns = [
    path("", views.sweep_list, name="list"),
    path("new", form_views.new_sweep, name="new"),
    path("new/launch", form_views.launch, name="launch"),
    path("new/plan", form_views.plan_fragment, name="plan"),
    path("new/export", form_views.export_fragment, name="export"),
    path("new/import", form_views.import_yaml, name="import"),
    path("<int:pk>/", views.sweep_detail, name="detail"),
    path("<int:pk>/table.csv", views.sweep_csv, name="csv"),
    path("<int:pk>/yaml", views.sweep_yaml, name="yaml"),
    path("<int:pk>/stop", views.stop, name="stop"),
    path("<int:pk>/resume", views.resume, name="resume"),
    path("<int:pk>/delete", views.delete, name="delete"),
    path("of-run/<int:pk>", views.of_run, name="of-run"),
]
