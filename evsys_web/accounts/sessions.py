"""Where a person is signed in. allauth keeps a row beside each session: since when, from where, by what browser."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from allauth.usersessions.models import UserSession
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpRequest
from django.utils.timezone import now

from evsys_web.accounts.adapters import NOWHERE
from evsys_web.accounts.audit import record
from evsys_web.accounts.models import User

BROWSERS = {"Edg": "Edge", "OPR": "Opera", "Firefox": "Firefox", "Chrome": "Chrome", "Safari": "Safari"}
SYSTEMS = {"Android": "Android", "iPhone": "iPhone", "iPad": "iPad", "Windows": "Windows", "Mac OS": "macOS", "Linux": "Linux"}
"""What user agents say, first the words that others say as well."""


class Listed(NamedTuple):
    pk: int
    name: str
    user_agent: str
    address: str
    created_at: datetime
    is_current: bool


def sessions_of(request: HttpRequest, user: User) -> list[Listed]:
    """Those that still open something, this one first, then the newest."""
    UserSession.objects.create_from_request(request)  # it may have begun before there were such rows
    found = [
        Listed(
            pk=each.pk,
            name=browser_name(each.user_agent),
            user_agent=each.user_agent,
            address="unknown" if each.ip == NOWHERE else each.ip,
            created_at=each.created_at,
            is_current=each.is_current(),
        )
        for each in UserSession.objects.purge_and_list(user)
    ]
    return sorted(found, key=lambda each: (not each.is_current, -each.created_at.timestamp()))


def browser_name(user_agent: str) -> str:
    """In two words where it can be told; it is what the browser says of itself, no proof of anything."""
    browser = next((name for word, name in BROWSERS.items() if f"{word}/" in user_agent), "")
    system = next((name for word, name in SYSTEMS.items() if word in user_agent), "")
    return f"{browser} on {system}" if browser and system else user_agent or "a browser that says nothing about itself"


def end_session(*, user: User, session: UserSession) -> None:
    with transaction.atomic():
        record(user, "signed out", session)
        session.end()


def end_other_sessions(request: HttpRequest, user: User) -> int:
    """How many. What the person does in this browser goes on. Reads every session of this server, since some have no row."""
    key = request.session.session_key
    running = Session.objects.filter(expire_date__gt=now()).exclude(session_key=key)
    others = [each.session_key for each in running.iterator() if each.get_decoded().get(SESSION_KEY) == str(user.pk)]
    with transaction.atomic():
        Session.objects.filter(session_key__in=others).delete()
        UserSession.objects.filter(user=user).exclude(session_key=key).delete()
        if others:
            record(user, "signed out the other browsers of", user, after={"sessions": len(others)})
    return len(others)


def forget_expired_sessions() -> int:
    """How many went. Nobody is signed in by them any more."""
    with transaction.atomic():
        count, _ = Session.objects.filter(expire_date__lt=now()).delete()
        UserSession.objects.exclude(session_key__in=Session.objects.values("session_key")).delete()
    return count
