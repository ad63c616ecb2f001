from __future__ import annotations

from django.urls import path

from evsys_web.cycles import form_views, import_views, views

app_name = "cycles"
urlpatterns = [
    path("", views.cycle_list, name="list"),
    path("first", form_views.first_cycle, name="first"),
    path("new", form_views.new_cycle, name="new"),
    path("new/settings", form_views.settings_fragment, name="settings"),
    path("new/size", form_views.size_fragment, name="size"),
    path("new/offer", form_views.offer_fragment, name="offer"),
    path("new/export", form_views.export_fragment, name="export"),
    path("new/starter", form_views.starter, name="starter"),
    path("<int:pk>/", views.cycle_detail, name="detail"),
    path("<int:pk>/header", views.cycle_header, name="header"),
    path("<int:pk>/steps", views.cycle_steps, name="steps"),
    path("<int:pk>/found", views.cycle_found, name="found"),
    path("<int:pk>/export", views.export, name="export-zip"),
    path("import", import_views.upload, name="import"),
    path("<int:pk>/yaml", views.cycle_yaml, name="yaml"),
    path("<int:pk>/stop", views.stop, name="stop"),
    path("<int:pk>/resume", views.resume, name="resume"),
    path("<int:pk>/delete", views.delete, name="delete"),
]
