from __future__ import annotations

from django.urls import path

from evsys_web.datasets import diff_views, hub_views, staged_views, views

app_name = "datasets"
urlpatterns = [
    path("", views.list_datasets, name="list"),
    path("upload", views.upload, name="upload"),
    path("hub", hub_views.import_page, name="hub"),
    path("transfers/<int:pk>/again", hub_views.again, name="transfer-again"),
    path("starter", views.add_starter_rows, name="starter"),
    path("staged/<uuid:pk>", staged_views.staged, name="staged"),
    path("staged/<uuid:pk>/errors", staged_views.errors, name="staged-errors"),
    path("<int:pk>", views.dataset, name="dataset"),
    path("<int:pk>/delete", views.delete, name="delete"),
    path("versions/<int:pk>", views.detail, name="detail"),
    path("versions/<int:pk>/diff", diff_views.compare, name="diff"),
    path("versions/<int:pk>/tokens", views.tokens, name="tokens"),
    path("versions/<int:pk>/preview", views.preview, name="preview"),
    path("versions/<int:pk>/download", views.download, name="download"),
    path("versions/<int:pk>/publish", hub_views.publish_page, name="publish"),
    path("versions/<int:pk>/delete", views.delete_one, name="delete-version"),
]
