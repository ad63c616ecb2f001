from __future__ import annotations

from django.urls import path

from evsys_web.notifications import views

app_name = "notifications"
urlpatterns = [
    path("", views.channels, name="channels"),
    path("channels/<int:pk>/", views.channel_detail, name="channel"),
    path("channels/<int:pk>/deliveries/", views.channel_deliveries, name="deliveries"),
    path("channels/<int:pk>/test/", views.test, name="test"),
    path("channels/<int:pk>/switch/", views.switch, name="switch"),
    path("channels/<int:pk>/delete/", views.delete, name="delete"),
]
