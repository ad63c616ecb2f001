from __future__ import annotations

from django.urls import path

from evsys_web.queue import views

app_name = "queue"
urlpatterns = [
    path("", views.queue, name="queue"),
    path("runs/<int:pk>/move", views.change, {"kind": "runs"}, name="runs"),
    path("evals/<int:pk>/move", views.change, {"kind": "evals"}, name="evals"),
    path("exports/<int:pk>/move", views.change, {"kind": "exports"}, name="exports"),
    path("limits/<int:pk>", views.limits, name="limits"),
]
