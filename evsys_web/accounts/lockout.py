"""What somebody is answered who typed too many wrong passwords: django-axes counts, per user name and address; and we count those
of an address in a minute, whichever names they were for, since one password tried on all names locks none of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.timezone import now

from evsys_web.accounts.models import User
from evsys_web.accounts.origin import address_of
from evsys_web.encryption import digest
from evsys_web.rates import WINDOW_SECONDS, count, is_used_up

FAILURES_A_MINUTE = 60
"""From one address, behind which an office may sit."""


def note_failure(request: HttpRequest) -> None:
    count(_failures(request), limit=FAILURES_A_MINUTE)


def refused_for_now(request: HttpRequest) -> HttpResponse | None:
    """429 for an address that failed so often in this minute; a right password is not looked at either. None for all others."""
    if not is_used_up(_failures(request), limit=FAILURES_A_MINUTE):
        return None
    response = render(request, "accounts/locked_out.html", {"of_address": True}, status=429)
    response["Retry-After"] = str(WINDOW_SECONDS)
    return response


def _failures(request: HttpRequest) -> str:
    return f"failed-sign-ins:{address_of(request)}"


def locked_out(request: HttpRequest, *_: Any) -> HttpResponse:
    """429 with when to try again. Nothing in it says whether there is such a user."""
    until = _last_failure(request) + settings.AXES_COOLOFF_TIME
    seconds = max(1, int((until - now()).total_seconds()))
    context = {"until": until, "minutes": -(-seconds // 60)}
    response = render(request, "accounts/locked_out.html", context, status=429)
    response["Retry-After"] = str(seconds)
    return response


def username_of(request: HttpRequest, credentials: Mapping[str, Any] | None = None) -> str | None:
    """The name that axes counts, stores and logs: somebody's as it is, since `axes_reset_username` asks for it; what nobody is
    called only as its digest under this server's key, for it may be a password that was typed into the wrong field."""
    name = (credentials or request.POST).get("username")  # only the first step of a sign-in says it
    if name is None:
        return None
    name = str(name).replace("\0", "")
    return name if User.objects.filter(username=name).exists() else digest(name)


def _last_failure(request: HttpRequest) -> datetime:
    username = username_of(request, getattr(request, "axes_credentials", None)) or ""
    attempts = AccessAttempt.objects.filter(username=username, ip_address=address_of(request))
    newest: datetime | None = attempts.order_by("-attempt_time").values_list("attempt_time", flat=True).first()
    return newest or now()
