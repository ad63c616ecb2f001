"""A forgotten password: a link by e-mail, if this server sends any. What is answered never says whether there is such an account,
nor does the time it takes: a worker looks for the account and sends."""

from __future__ import annotations

from allauth.core import ratelimit
from django.conf import settings
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.tokens import default_token_generator
from django.core.mail import send_mail
from django.http import HttpRequest
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from evsys_web.accounts.models import User


def may_ask(request: HttpRequest, email: str) -> bool:
    """So many times an hour for an address, and from one (settings.ACCOUNT_RATE_LIMITS)."""
    return bool(ratelimit.consume(request, action="reset_password", key=email.lower()))


def send_links(email: str) -> int:
    """To every account with this address that has a password; returns to how many. Raises OSError (smtplib's errors are ones)."""
    count = 0
    for user in PasswordResetForm().get_users(email):  # compares as mail servers do, and knows look-alike letters
        assert isinstance(user, User)
        uid = urlsafe_base64_encode(force_bytes(user.pk))
        link = settings.URL + reverse("accounts:reset-confirm", args=[uid, default_token_generator.make_token(user)])
        text = (
            f"Somebody, hopefully you, wants a new password for {user.get_username()} on {settings.URL}.\n\n{link}\n\n"
            f"The link works once, for {settings.PASSWORD_RESET_TIMEOUT // 60} minutes. If it was not you, do nothing: "
            "your password stays as it is.\n"
        )
        send_mail("A new password for EvSys", text, None, [user.email])
        count += 1
    return count
