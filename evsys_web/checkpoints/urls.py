from __future__ import annotations

from django.urls import path

from evsys_web.checkpoints import views

app_name = "checkpoints"
urlpatterns = [
    path("", views.checkpoint_list, name="list"),
    path("<int:pk>/", views.checkpoint_detail, name="detail"),
    path("<int:pk>/download", views.download, name="download"),
    path("<int:pk>/delete", views.delete, name="delete"),
]
