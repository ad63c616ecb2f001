"""When whoever is signed in last proved who they are, by what allauth notes in the session."""

from __future__ import annotations

import time

from allauth.account.internal.flows.login import get_authentication_records, record_authentication
from django.http import HttpRequest

from evsys_web.accounts.models import User

MINUTES = 10


def signed_in_a_moment_ago(request: HttpRequest, user: User) -> bool:
    times = [float(each["at"]) for each in get_authentication_records(request, user)]
    return bool(times) and time.time() - max(times) < 60 * MINUTES


def note_proof(request: HttpRequest, user: User) -> None:
    """They said their password just now."""
    record_authentication(request, user, "password", reauthenticated=True)
