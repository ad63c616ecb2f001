"""Every write on channels that a page and the API share. Each checks that the caller may, and says no in a sentence."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils.timezone import now

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.addresses import refuse_private
from evsys_web.encryption import seal
from evsys_web.notifications.models import CHOOSABLE, Channel, Delivery, Event, Kind, Notice
from evsys_web.notifications.tasks import announce
from evsys_web.runs.actions import RunRefused
from recipes.errors import ConfigError

MAX_CHANNELS = 50
BETWEEN_TESTS = timedelta(seconds=5)


class AddedChannel(NamedTuple):
    """secret: of a webhook; it is stored sealed and shown this once. Empty for an e-mail address."""

    channel: Channel
    secret: str


def add_channel(*, user: User, project: Project, kind: str, target: str, events: Sequence[str]) -> AddedChannel:
    """Tell this URL or address of the project's events from now on. Raises ConfigError."""
    require_editor(user, project)
    target = checked_url(target) if kind == Kind.WEBHOOK else checked_address(target)
    chosen = checked_events(events)
    if Channel.objects.filter(project=project).count() >= MAX_CHANNELS:
        raise ConfigError(f"A project has {MAX_CHANNELS} channels at most. Delete one that is not needed.", path=("target",))
    secret = f"whsec_{secrets.token_urlsafe(32)}" if kind == Kind.WEBHOOK else ""
    try:
        with transaction.atomic():
            channel = Channel.objects.create(
                project=project,
                created_by=user,
                kind=kind,
                target=target,
                events=chosen,
                sealed_secret=seal(secret) if secret else "",
            )
            record(user, "added", channel, after=facts(channel))
    except IntegrityError:
        raise ConfigError("This project tells that address already. Change its events on its page.", path=("target",)) from None
    return AddedChannel(channel, secret)


def choose_events(*, user: User, channel: Channel, events: Sequence[str]) -> Channel:
    """Raises ConfigError."""
    require_editor(user, channel.project)
    before, channel.events = channel.events, checked_events(events)
    with transaction.atomic():
        channel.save(update_fields=["events"])
        record(user, "changed", channel, before={"events": before}, after={"events": channel.events})
    return channel


def switch_channel(*, user: User, channel: Channel, on: bool) -> Channel:
    """What happened while it was off is not caught up; what waits to be sent is given up."""
    require_editor(user, channel.project)
    before = channel.is_on
    with transaction.atomic():
        if on:
            channel.turn_on()
        else:
            channel.turn_off(f"Turned off by {user}.")
        record(user, "turned on" if on else "turned off", channel, before={"is_on": before}, after={"is_on": on})
    return channel


def delete_channel(*, user: User, channel: Channel) -> None:
    """With everything that was sent to it."""
    require_editor(user, channel.project)
    with transaction.atomic():
        record(user, "deleted", channel, before=facts(channel))
        channel.delete()


def send_test(*, user: User, channel: Channel) -> Delivery:
    """A message that says it is a test, tried once; also to a channel that is off. Raises RunRefused when asked too often."""
    require_editor(user, channel.project)
    if channel.deliveries.filter(notice__event=Event.TEST, created_at__gt=now() - BETWEEN_TESTS).exists():
        raise RunRefused("A test was sent a moment ago. Wait a few seconds.")
    with transaction.atomic():
        at = now()
        notice = Notice.objects.create(
            project=channel.project,
            key=f"test:{channel.pk}:{at.timestamp():.6f}",
            event=Event.TEST,
            sentence=f"This is a test, sent by {user}. The channel works.",
            occurred_at=at,
        )
        delivery = Delivery.objects.create(notice=notice, channel=channel)
        record(user, "tested", channel)
        announce(delivery)
    return delivery


def checked_url(text: str) -> str:
    """Raises ConfigError. Where a name leads is judged at each call."""
    text = text.strip()
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or len(text) > 1000 or not text.isascii() or any(not letter.isprintable() or letter == " " for letter in text):
        raise ConfigError("Enter an address that begins with http:// or https:// and names a host.", path=("target",))
    if parts.username or parts.password:
        raise ConfigError("Leave name and password out of the address; messages are signed instead.", path=("target",))
    refuse_private(text, path=("target",))
    return parts._replace(fragment="").geturl()


def checked_address(text: str) -> str:
    """Raises ConfigError."""
    if not settings.EMAIL_IS_SENT:
        raise ConfigError(
            "This server sends no e-mail. Whoever runs it sets EMAIL_URL, such as smtp://user:password@host:587.",
            path=("target",),
        )
    try:
        validate_email(text.strip())
    except ValidationError:
        raise ConfigError("Enter one e-mail address, such as ada@example.org.", path=("target",)) from None
    return text.strip()


def checked_events(events: Sequence[str]) -> list[str]:
    """In their usual order, each once. Raises ConfigError."""
    known = [event.value for event in CHOOSABLE]
    if unknown := sorted(set(events) - set(known)):
        raise ConfigError(f"There is no event {unknown[0]!r}. Choose from {', '.join(known)}.", path=("events",))
    if not events:
        raise ConfigError("Choose at least one event.", path=("events",))
    return [event for event in known if event in events]
