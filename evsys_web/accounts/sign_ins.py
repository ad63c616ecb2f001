"""Who came in, who tried to, who was locked out and who left: entries of the audit log, from Django's and axes' own signals.

No password is in them. A name that nobody has is not written down: it may be a password, typed into the wrong field. Whoever
guesses fills neither the log nor the disk: of one address so many failures a minute are noted, and then none.
"""

from __future__ import annotations

from typing import Any

from axes.signals import user_locked_out
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.http import HttpRequest

from evsys_web.accounts.audit import record
from evsys_web.accounts.models import User
from evsys_web.accounts.origin import origin
from evsys_web.rates import count

NOTED_A_MINUTE = 20
NOBODYS_NAME = "a name that nobody has"


def connect() -> None:
    user_logged_in.connect(_came, dispatch_uid="evsys-signed-in")
    user_logged_out.connect(_left, dispatch_uid="evsys-signed-out")
    user_login_failed.connect(_failed, dispatch_uid="evsys-sign-in-failed")
    user_locked_out.connect(_locked_out, dispatch_uid="evsys-locked-out")


def _came(request: HttpRequest | None, user: User, **_: Any) -> None:
    if _is_a_visitors(request):
        record(user, "signed in", user)


def _left(request: HttpRequest | None, user: User | None, **_: Any) -> None:
    if user is not None and _is_a_visitors(request):
        record(user, "signed out", user)


def _failed(credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    if _is_a_visitors(request) and not getattr(request, "axes_locked_out", False):
        _note("failed to sign in as", credentials.get("username"))


def _locked_out(request: HttpRequest, username: str | None, **_: Any) -> None:
    _note("was locked out as", username)


def _note(verb: str, name: object) -> None:
    """By nobody: whoever tried has not shown who they are."""
    rate = count(f"{verb.replace(' ', '-')}:{origin().address}", limit=NOTED_A_MINUTE)
    if rate is None or rate.is_kept:
        meant = User.objects.filter(username=str(name).replace("\0", "")).first()
        record(None, verb, meant or User(username=NOBODYS_NAME))


def _is_a_visitors(request: HttpRequest | None) -> bool:
    """A test or a command may sign somebody in with a request that came from nowhere."""
    return request is not None and bool(request.path)
