from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from evsys_web.accounts import audit_views, credential_views, member_views, views

app_name = "accounts"
urlpatterns = [
    path("login/", views.LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("", views.profile, name="profile"),
    path("password/", views.PasswordView.as_view(), name="password"),
    path("tokens/", views.tokens, name="tokens"),
    path("tokens/<int:pk>/revoke/", views.revoke, name="revoke"),
    path("projects/new", member_views.new_project, name="new-project"),
    path("projects/<int:pk>/", member_views.project, name="project"),
    path("projects/<int:pk>/invitations/", member_views.invite, name="invite"),
    path("projects/<int:pk>/invitations/<int:invitation_pk>/withdraw", member_views.withdraw, name="withdraw"),
    path("projects/<int:pk>/members/<int:member_pk>/role", member_views.change_role, name="change-role"),
    path("projects/<int:pk>/members/<int:member_pk>/remove", member_views.remove, name="remove-member"),
    path("invitations/<str:secret>/", member_views.invitation, name="invitation"),
    path("audit/", audit_views.audit, name="audit"),
    path("credentials/", views.credentials, name="credentials"),
    path("credentials/<int:pk>/", credential_views.credential, name="credential"),
    path("credentials/<int:pk>/test", credential_views.test, name="test-credential"),
    path("credentials/<int:pk>/delete/", views.remove_credential, name="delete-credential"),
]
