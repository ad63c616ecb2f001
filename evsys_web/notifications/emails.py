"""Sends a notice as a plain e-mail, over the server that the operator named in EMAIL_URL."""

from __future__ import annotations

import smtplib
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMessage

from evsys_web.notifications.models import Channel, Event, Notice
from evsys_web.notifications.webhooks import DeliveryFailed


def send(channel: Channel, notice: Notice) -> None:
    """Raises DeliveryFailed."""
    if not settings.EMAIL_IS_SENT:
        raise DeliveryFailed("This server sends no e-mail: EMAIL_URL is not set.", is_final=True)
    message = EmailMessage(
        subject=subject_of(notice),
        body=text_of(channel, notice),
        to=[channel.target],
        headers={
            "Message-ID": f"<{notice.event_id}.{channel.pk}@{urlsplit(settings.URL).hostname}>",  # a second copy is seen as one
            "X-EvSys-Event-Id": notice.event_id,
            "Auto-Submitted": "auto-generated",
        },
    )
    try:
        message.send()
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()), (0, b""))
        raise DeliveryFailed(f"The mail server refused the address: {code} {said!r}.", is_final=500 <= code < 600) from None
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryFailed(f"The mail server did not take it: {' '.join(str(error).split())[:200]}.") from None


def subject_of(notice: Notice) -> str:
    """One line, whatever a name holds."""
    if notice.event == Event.TEST:
        return "[EvSys] Test message"
    what = "loss is no number" if notice.event == Event.NAN_LOSS else notice.get_event_display().lower()
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in notice.subject_name).split())
    return f"[EvSys] {name}: {what}"


def text_of(channel: Channel, notice: Notice) -> str:
    lines = [notice.sentence, ""]
    if notice.subject_kind:
        lines += [f"{notice.subject_kind.capitalize()}: {notice.subject_name}", f"Project: {notice.project.name}"]
        lines += [f"Page: {settings.URL}{notice.path}", ""]
    lines.append(f"Sent because this address is in the project's notifications: {settings.URL}{channel.get_absolute_url()}")
    return "\n".join(lines)
