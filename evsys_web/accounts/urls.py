from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from evsys_web.accounts import views

app_name = "accounts"
urlpatterns = [
    path("login/", views.LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("", views.profile, name="profile"),
    path("password/", views.PasswordView.as_view(), name="password"),
    path("tokens/", views.tokens, name="tokens"),
    path("tokens/<int:pk>/revoke/", views.revoke, name="revoke"),
    path("credentials/", views.credentials, name="credentials"),
    path("credentials/<int:pk>/delete/", views.remove_credential, name="delete-credential"),
]
