from __future__ import annotations

from django.urls import path

from evsys_web.checkpoints import chat_views, export_views, views

app_name = "checkpoints"
urlpatterns = [
    path("", views.checkpoint_list, name="list"),
    path("<int:pk>/", views.checkpoint_detail, name="detail"),
    path("<int:pk>/download", views.download, name="download"),
    path("<int:pk>/chat", chat_views.chat, name="chat"),
    path("<int:pk>/chat/opening", chat_views.opening, name="chat-opening"),
    path("<int:pk>/chat/replies", chat_views.replies, name="chat-replies"),
    path("<int:pk>/exports", export_views.exports_fragment, name="exports"),
    path("<int:pk>/merge", export_views.merge, name="merge"),
    path("<int:pk>/push", export_views.push, name="push"),
    path("exports/<int:pk>/download", export_views.download, name="export-download"),
    path("exports/<int:pk>/stop", export_views.stop, name="export-stop"),
    path("exports/<int:pk>/remove", export_views.remove, name="export-remove"),
    path("<int:pk>/delete", views.delete, name="delete"),
]
