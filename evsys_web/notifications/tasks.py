"""Sends a delivery. A message carries its id and is only a hint: whoever wins the claim sends."""

from __future__ import annotations

import time
from datetime import timedelta

from celery import Task, shared_task
from celery.utils.time import get_exponential_backoff_interval
from django.db import transaction
from django.utils.timezone import now

from evsys_web.encryption import unseal
from evsys_web.notifications import emails, webhooks
from evsys_web.notifications.models import Channel, Delivery, Kind, Notice
from evsys_web.notifications.webhooks import DeliveryFailed
from recipes.errors import ConfigError

FIRST_DELAY_SECONDS = 10
LONGEST_DELAY_SECONDS = 4 * 3600
"""Seven tries lie within four hours: long enough for a receiver to be mended, short enough to be still news."""


@shared_task(bind=True, max_retries=None)
def deliver(self: Task, delivery_id: int) -> None:
    """Send it, once; after a failure Celery brings it back later. The row counts the tries, since a message may be lost."""
    found = Delivery.objects.select_related("notice__project", "channel")
    delivery = found.filter(pk=delivery_id).first()
    if delivery is None or not delivery.claim():
        return
    began = time.monotonic()
    try:
        code = send(delivery.channel, delivery.notice)
    except DeliveryFailed as failure:
        seconds = time.monotonic() - began
        if wait := _put_off(delivery, failure, seconds):
            raise self.retry(countdown=wait, exc=failure) from failure
        return
    if delivery.delivered(response_code=code, seconds=time.monotonic() - began):
        delivery.channel.count_success()


def send(channel: Channel, notice: Notice) -> int | None:
    """What a webhook answered. Raises DeliveryFailed."""
    if not channel.is_on and notice.subject_kind:
        raise DeliveryFailed("The channel was turned off before this was sent.", is_final=True)
    if channel.kind == Kind.EMAIL:
        emails.send(channel, notice)
        return None
    try:
        secret = unseal(channel.sealed_secret)
    except ConfigError:
        raise DeliveryFailed(
            "The signing secret cannot be opened: its key is gone. Add the webhook anew.", is_final=True
        ) from None
    return webhooks.post(channel.target, secret, notice)


def announce(delivery: Delivery) -> None:
    """Tell the workers once the row is written."""
    delivery.hint()
    pk = delivery.pk
    transaction.on_commit(lambda: deliver.delay(pk), robust=True)


def delay_after(num_tries: int) -> int:
    """Seconds to wait after so many failed tries: 10 s, 40 s, 160 s … up to LONGEST_DELAY_SECONDS."""
    doublings = 2 * (num_tries - 1)
    return int(get_exponential_backoff_interval(FIRST_DELAY_SECONDS, doublings, LONGEST_DELAY_SECONDS, full_jitter=False))


def _put_off(delivery: Delivery, failure: DeliveryFailed, seconds: float) -> int:
    """How many seconds to wait for the next try; 0 when it was given up."""
    channel = delivery.channel
    if delivery.can_be_tried_again and not failure.is_final:
        wait = delay_after(delivery.num_tries)
        until = now() + timedelta(seconds=wait)
        return wait if delivery.put_off(until, str(failure), response_code=failure.code, seconds=seconds) else 0
    if delivery.give_up(str(failure), response_code=failure.code, seconds=seconds) and delivery.notice.subject_kind:
        if failure.is_gone:
            channel.turn_off(str(failure))
        elif channel.is_on:
            channel.count_failure(str(failure))
    return 0
