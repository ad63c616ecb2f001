"""A forgotten password: a link by e-mail, if this server sends any. What is answered never says whether there is such an account,
nor does the time it takes: a worker looks for the account and sends."""

from __future__ import annotations

from typing import NamedTuple

from django.conf import settings
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.tokens import default_token_generator
from django.core.mail import send_mail
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from evsys_web.accounts.models import User
from evsys_web.accounts.origin import origin
from evsys_web.encryption import digest
from evsys_web.rates import is_too_often

AN_HOUR = 3600
ASKED_FROM, ASKED_FOR = 20, 3
"""So many times an hour from a network address, and for an e-mail address."""


class Sent(NamedTuple):
    num: int
    failed: list[int]
    """Primary keys of people whose letter did not go."""
    error: OSError | None
    """The last one."""


def may_ask(email: str) -> bool:
    """Whoever asks for many addresses uses up their own turns, not those of the addresses."""
    if is_too_often(f"resets-from:{origin().address}", limit=ASKED_FROM, seconds=AN_HOUR):
        return False
    return not is_too_often(f"resets-for:{digest(email.lower())}", limit=ASKED_FOR, seconds=AN_HOUR)


def send_links(email: str, *, only: list[int] | None = None) -> Sent:
    """To every account with this address that has a password; only: of these those that are named, whose letter failed before.
    A letter that cannot be sent (OSError; smtplib's errors are ones) keeps none of the others."""
    num, failed, error = 0, [], None
    for user in PasswordResetForm().get_users(email):  # compares as mail servers do, and knows look-alike letters
        assert isinstance(user, User)
        if only is not None and user.pk not in only:
            continue
        uid = urlsafe_base64_encode(force_bytes(user.pk))
        link = settings.URL + reverse("accounts:reset-confirm", args=[uid, default_token_generator.make_token(user)])
        text = (
            f"Somebody, hopefully you, wants a new password for {user.get_username()} on {settings.URL}.\n\n{link}\n\n"
            f"The link works once, for {settings.PASSWORD_RESET_TIMEOUT // 60} minutes. If it was not you, do nothing: "
            "your password stays as it is.\n"
        )
        try:
            send_mail("A new password for EvSys", text, None, [user.email])
            num += 1
        except OSError as problem:
            failed.append(user.pk)
            error = problem
    return Sent(num, failed, error)
