"""What somebody is answered who typed too many wrong passwords: django-axes counts, per user name and address."""

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
