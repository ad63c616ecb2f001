from __future__ import annotations

from django.urls import path

from evsys_web.checkpoints import chat_views, views

app_name = "checkpoints"
urlpatterns = [
    path("", views.checkpoint_list, name="list"),
    path("<int:pk>/", views.checkpoint_detail, name="detail"),
    path("<int:pk>/download", views.download, name="download"),
    path("<int:pk>/chat", chat_views.chat, name="chat"),
    path("<int:pk>/chat/opening", chat_views.opening, name="chat-opening"),
    path("<int:pk>/chat/replies", chat_views.replies, name="chat-replies"),
    path("<int:pk>/delete", views.delete, name="delete"),
]
