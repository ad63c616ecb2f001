from __future__ import annotations

from django.urls import path

from evsys_web.curation import views

app_name = "curation"
urlpatterns = [
    path("", views.curation_list, name="list"),
    path("new", views.new_curation, name="new"),
    path("preview", views.preview, name="preview"),
    path("filters", views.save_filter, name="save-filter"),
    path("filters/<int:pk>/delete", views.delete_filter, name="delete-filter"),
    path("curations/<int:pk>/", views.detail, name="detail"),
    path("evals/<int:pk>/tasks/<int:position>/lineage", views.task_lineage, name="task-lineage"),
    path("versions/<int:pk>/origin", views.version_origin, name="version-origin"),
    path("versions/<int:pk>/sources", views.row_sources, name="row-sources"),
]
