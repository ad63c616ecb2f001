"""The pages of a forgotten password."""

from __future__ import annotations

from typing import Any

from allauth.socialaccount.models import SocialAccount
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import views as auth_views
from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
from kombu.exceptions import OperationalError

from evsys_web.accounts.audit import record
from evsys_web.accounts.models import User
from evsys_web.accounts.reset import may_ask
from evsys_web.accounts.tasks import send_reset_links
from evsys_web.accounts.views import METHODS

SENT = "If there is an account with that address, a link is on its way. It works once, for {minutes} minutes."
TOO_MANY = "That was asked for too often. Look into the mailbox, its folder for spam included, or try again in an hour."
NO_WORKER = "No mail can be sent right now: the queue does not answer. Try again in a few minutes, or ask an administrator."


class ResetForm(forms.Form):
    email = forms.EmailField(
        max_length=254,
        label="E-mail",
        help_text="The one in your profile.",
        widget=forms.EmailInput(attrs={"autocomplete": "email"}),
    )
    use_required_attribute = False


@login_not_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def reset(request: HttpRequest) -> HttpResponse:
    """Without e-mail, says whom to ask."""
    form = ResetForm(request.POST or None)
    context = {"form": form, "is_sent": settings.EMAIL_IS_SENT}
    if request.method == "POST" and settings.EMAIL_IS_SENT and form.is_valid():
        email = form.cleaned_data["email"]
        if not may_ask(email):
            form.add_error(None, TOO_MANY)
            return render(request, "accounts/reset.html", context, status=429)
        try:
            send_reset_links.delay(email)
        except OperationalError:
            form.add_error(None, NO_WORKER)
            return render(request, "accounts/reset.html", context, status=503)
        messages.success(request, SENT.format(minutes=settings.PASSWORD_RESET_TIMEOUT // 60))
        return redirect("accounts:login")
    return render(request, "accounts/reset.html", context, status=422 if form.errors else 200)


class ResetConfirmView(auth_views.PasswordResetConfirmView):
    """Opened by the link. Does not sign in: whoever has a second factor is asked for it afterwards."""

    template_name = "accounts/reset_confirm.html"
    http_method_names = METHODS
    success_url = reverse_lazy("accounts:login")

    @method_decorator(login_not_required)
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if str(request.method).lower() not in METHODS:  # Django's own looks at the link first
            return self.http_method_not_allowed(request)
        return super().dispatch(request, *args, **kwargs)

    def form_valid(self, form: Any) -> HttpResponse:
        assert isinstance(self.user, User)
        with transaction.atomic():
            record(self.user, "reset the password of", self.user)
            response = super().form_valid(form)
        messages.success(
            self.request, f"Your password is changed, and every browser is signed out. {_what_still_works(self.user)}"
        )
        return response


def _what_still_works(user: User) -> str:
    """A new password is no end to what somebody may have added with the former."""
    kept = "API tokens still work: revoke those that you do not know."
    if settings.OIDC and SocialAccount.objects.filter(user=user, provider=settings.OIDC.provider_id).exists():
        kept += (
            f" So does signing in with {settings.OIDC.name}, with which this account is connected: "
            "disconnect it on your account page if that was not you."
        )
    return kept
