"""What is asked before a second factor is turned on, used or turned off. A wrong password and a wrong code count alike: five of
them lock the name at that address (`lockout.py`), and so many codes are tried against one person from anywhere."""

from __future__ import annotations

from typing import Any

from allauth.mfa.base.forms import AuthenticateForm
from allauth.mfa.base.internal.flows import check_rate_limit, post_authentication
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import get_totp_secret, validate_totp_code
from axes.handlers.proxy import AxesProxyHandler
from django import forms
from django.contrib.auth import authenticate
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest

from evsys_web.accounts.adapters import WRONG_CODE
from evsys_web.accounts.freshness import MINUTES, signed_in_a_moment_ago
from evsys_web.accounts.models import User
from evsys_web.accounts.second_factor import is_first_use
from evsys_web.rates import forget, is_too_often
from recipes.errors import ConfigError

NOT_FRESH = f"Your account has no password to ask for. Sign out, sign in again, and come back within {MINUTES} minutes."
TRIED_AT_MOST, TRIED_WITHIN = 5, 300
"""Codes against one person in so many seconds, counted by all web processes together; allauth counts as many in each."""
TOO_MANY = "Too many wrong codes. Try again in some minutes."
LOST_KEY = "The key that opens the stored secret is gone. Ask an administrator of this server to remove your second factor."


def code_field(label: str, help_text: str = "") -> forms.CharField:
    attributes = {"autocomplete": "one-time-code", "inputmode": "numeric", "spellcheck": "false"}
    return forms.CharField(max_length=32, label=label, help_text=help_text, widget=forms.TextInput(attrs=attributes))


def checked_code(request: HttpRequest, user: User, code: str) -> Authenticator:
    """That which the code is of; a code works once. Raises ValidationError; a wrong one counts as a failed sign-in, and all are
    refused while the name is locked at this address."""
    credentials = {"username": user.get_username()}
    if not AxesProxyHandler.is_allowed(request, credentials):
        request.axes_locked_out, request.axes_credentials = True, credentials  # type: ignore[attr-defined]
        raise forms.ValidationError(TOO_MANY)
    tried = f"codes:{user.pk}"
    if is_too_often(tried, limit=TRIED_AT_MOST, seconds=TRIED_WITHIN):
        user_login_failed.send(sender=__name__, credentials=credentials, request=request)
        raise forms.ValidationError(TOO_MANY)
    form = AuthenticateForm({"code": code}, user=user)
    try:
        is_right = form.is_valid()
    except ConfigError:
        raise forms.ValidationError(LOST_KEY) from None
    if not is_right or not is_first_use(form.authenticator):
        user_login_failed.send(sender=__name__, credentials=credentials, request=request)
        raise forms.ValidationError(form.errors["code"].as_data() if form.errors else WRONG_CODE)
    forget(tried, seconds=TRIED_WITHIN)
    return form.authenticator


class CodeForm(forms.Form):
    """The second step of a sign-in. `user` has said the right password, or comes from the provider, and is not signed in yet."""

    code = code_field("Code", "Six digits that your authenticator app shows right now, or one of your recovery codes.")
    use_required_attribute = False

    def __init__(self, *args: Any, request: HttpRequest, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request, self.user = request, user
        self.fields["code"].widget.attrs["autofocus"] = True

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        post_authentication(self.request, checked_code(self.request, self.user, code))
        return code


class ConfirmForm(forms.Form):
    """Asks whoever is signed in for their password again; who has none has to have signed in a moment ago."""

    password = forms.CharField(
        strip=False,
        max_length=4096,
        label="Your password",
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
    use_required_attribute = False

    def __init__(self, *args: Any, request: HttpRequest, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request, self.user = request, user
        if not user.has_usable_password():
            del self.fields["password"]

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if authenticate(self.request, username=self.user.get_username(), password=password) is None:
            raise forms.ValidationError("That is not your password.")
        return password

    def clean(self) -> dict[str, Any]:
        if "password" not in self.fields and not signed_in_a_moment_ago(self.request, self.user):
            raise forms.ValidationError(NOT_FRESH)
        return super().clean() or {}


class ConfirmWithCodeForm(ConfirmForm):
    """Before a second factor is changed or removed."""

    code = code_field("Code", "From your authenticator app, or a recovery code.")

    def clean(self) -> dict[str, Any]:
        """The code is used up only by whoever knows the password."""
        cleaned = super().clean()
        if not self.errors:
            try:
                checked_code(self.request, self.user, cleaned["code"])
            except forms.ValidationError as error:
                self.add_error("code", error)
        return cleaned


class TurnOnForm(ConfirmForm):
    """The code proves that the app holds the secret. `secret`: what the page shows; kept in the session until it is turned on."""

    code = code_field("Code that the app shows")
    revoke_tokens = forms.BooleanField(
        required=False, initial=True, help_text="They were made when a password alone was enough. Scripts that use them stop."
    )
    field_order = ("code", "password", "revoke_tokens")

    def __init__(self, *args: Any, num_tokens: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.secret: str = get_totp_secret(regenerate=not self.is_bound)
        self.fields["revoke_tokens"].label = f"Revoke my {num_tokens} API token{'s' if num_tokens > 1 else ''}"
        if not num_tokens:
            del self.fields["revoke_tokens"]

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        forget = check_rate_limit(self.user, error_key="rate_limited")
        if not validate_totp_code(self.secret, code):
            raise forms.ValidationError(WRONG_CODE)
        forget()
        return code
