from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from evsys_web.accounts import (
    audit_views,
    credential_views,
    member_views,
    oidc_views,
    reset_views,
    second_factor_views,
    session_views,
    views,
)

app_name = "accounts"
urlpatterns = [
    path("login/", views.LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("", views.profile, name="profile"),
    path("password/", views.PasswordView.as_view(), name="password"),
    path("reset/", reset_views.reset, name="reset"),
    path("reset/<str:uidb64>/with/<str:token>/", reset_views.ResetConfirmView.as_view(), name="reset-confirm"),
    path("second-step/", second_factor_views.second_step, name="second-step"),
    path("second-factor/", second_factor_views.page, name="second-factor"),
    path("second-factor/codes", second_factor_views.new_codes, name="new-codes"),
    path("second-factor/off", second_factor_views.turn_off, name="second-factor-off"),
    path("sessions/", session_views.sessions, name="sessions"),
    path("sessions/others/end", session_views.end_others, name="end-other-sessions"),
    path("sessions/<int:pk>/end", session_views.end, name="end-session"),
    path("sso/", oidc_views.start, name="sso"),
    path("sso/callback/", oidc_views.callback, name="sso-callback"),
    path("sso/connect", oidc_views.connect, name="sso-connect"),
    path("sso/disconnect", oidc_views.disconnect, name="sso-disconnect"),
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
names_that_allauth_knows = [
    path("login/", views.LoginView.as_view(), name="account_login"),
    path("second-step/", second_factor_views.second_step, name="mfa_authenticate"),
]
