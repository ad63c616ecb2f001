"""Writes down what happened, for every channel that wants to know, and finds deliveries that were lost on the way.

Every worker sweeps now and then (settings.SWEEPS), so nothing is lost when one dies: the rows of the work say what happened, a
row says up to when somebody looked, and each look goes back a little further, since work may be committed after its own time.
What was seen twice is written once, by its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.utils.timezone import now

from evsys_web.notifications.models import Channel, Delivery, DeliveryStatus, Notice, Watch
from evsys_web.notifications.sources import Happening, happened_since
from evsys_web.notifications.tasks import announce
from evsys_web.runs.work import storable

LOOK_BACK = timedelta(minutes=10)
MOVE_ON = timedelta(minutes=1)
LATE, AGAIN = timedelta(seconds=5), timedelta(minutes=5)
KEPT = timedelta(days=90)
UNREAD = timedelta(days=1)


def sweep(worker: str = "") -> None:
    """Safe to run anywhere, at any time, twice."""
    began = now()
    watch = Watch.objects.order_by("pk").first() or Watch.objects.get_or_create(pk=1)[0]
    channels = list(Channel.objects.on())
    if channels:
        _write_down(channels, watch.seen_until - LOOK_BACK)
        _bring_back()
    if began - watch.seen_until > MOVE_ON:
        Watch.objects.filter(pk=watch.pk, seen_until__lt=began).update(seen_until=began)
        Notice.objects.filter(created_at__lt=began - KEPT).delete()


def _write_down(channels: Sequence[Channel], since: datetime) -> None:
    since = max(since, min(channel.enabled_at for channel in channels if channel.enabled_at))
    found = list(happened_since(since, {channel.project_id for channel in channels}))
    known = set(Notice.objects.filter(key__in=[each.key for each in found]).values_list("key", flat=True)) if found else set()
    for happening in found:
        wanted = [channel for channel in channels if _wants(channel, happening)]
        if happening.key not in known and wanted:
            _tell(happening, wanted)


def _wants(channel: Channel, happening: Happening) -> bool:
    return (
        channel.project_id == happening.project_id
        and happening.event.value in channel.events
        and channel.enabled_at is not None
        and channel.enabled_at <= happening.occurred_at
    )


def _tell(happening: Happening, channels: Sequence[Channel]) -> None:
    try:
        with transaction.atomic():
            notice = Notice.objects.create(
                project_id=happening.project_id,
                key=happening.key,
                event=happening.event,
                subject_kind=happening.subject_kind,
                subject_id=happening.subject.pk,
                subject_name=happening.subject.name,
                path=happening.subject.get_absolute_url(),
                sentence=storable(happening.sentence),
                occurred_at=happening.occurred_at,
            )
            for channel in channels:
                announce(Delivery.objects.create(notice=notice, channel=channel))
    except IntegrityError:
        return  # another worker's sweep was faster


def _bring_back() -> None:
    for delivery in Delivery.objects.abandoned()[:100]:
        if delivery.take_back():
            announce(delivery)
    for delivery in Delivery.objects.unheard(late=LATE, again=AGAIN)[:100]:
        announce(delivery)
    unread = Delivery.objects.filter(status=DeliveryStatus.QUEUED, num_tries=0, due_at__lt=now() - UNREAD)
    unread.update(status=DeliveryStatus.FAILED, ended_at=now(), error="No worker read the queue “messages” for a day.")
