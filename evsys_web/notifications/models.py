"""Where a project wants to be told, what happened, and every message that went out.

A delivery is a row and the row is the queue, as with runs: whoever wins `claim` sends, everybody else leaves it alone, and a
message to the workers is only a hint. A notice has one event id for ever, so that a receiver that is told twice can tell.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.models import OwnedQuerySet
from evsys_web.runs.work import storable

CLAIM = timedelta(minutes=2)
"""Sending takes seconds; a claim older than this belongs to a worker that is gone."""
MAX_TRIES = 7
MAX_FAILURES = 5
"""So many deliveries given up in a row turn a channel off."""


class Event(models.TextChoices):
    FINISHED = "finished", "Finished"
    FAILED = "failed", "Failed"
    CRASHED = "crashed", "Crashed"
    NAN_LOSS = "nan_loss", "NaN loss"
    EXPIRING = "expiring", "Checkpoint expires"
    TEST = "test", "Test"


CHOOSABLE = (Event.FINISHED, Event.FAILED, Event.CRASHED, Event.NAN_LOSS, Event.EXPIRING)


class Kind(models.TextChoices):
    WEBHOOK = "webhook", "Webhook"
    EMAIL = "email", "E-mail"


class ChannelQuerySet(OwnedQuerySet):
    def on(self) -> Self:
        return self.exclude(enabled_at=None)


class Channel(models.Model):
    """A URL or an address that a project's events go to. On while `enabled_at` is set, and told of what happens after that."""

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="channels")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    kind = models.CharField(max_length=10, choices=Kind)
    target = models.CharField(max_length=1000, help_text="A URL or an e-mail address.")
    events = models.JSONField(default=list, help_text="Of which events it is told.")
    sealed_secret = models.TextField(blank=True, editable=False, help_text="Signs a webhook's messages; encrypted.")
    enabled_at = models.DateTimeField(null=True, default=now, editable=False)
    off_reason = models.TextField(blank=True, editable=False, help_text="Why it was turned off, for people.")
    num_failures = models.PositiveIntegerField(default=0, editable=False, help_text="Deliveries given up since the last success.")
    created_at = models.DateTimeField(default=now, editable=False)

    objects = ChannelQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project", "target"], name="one_channel_per_target_and_project")
        ]

    def __str__(self) -> str:
        return self.target

    def get_absolute_url(self) -> str:
        return reverse("notifications:channel", args=[self.pk])

    @property
    def is_on(self) -> bool:
        return self.enabled_at is not None

    @property
    def event_words(self) -> list[str]:
        return [event.label for event in CHOOSABLE if event.value in self.events]

    def turn_on(self) -> bool:
        """What happened while it was off is not caught up."""
        return self._change(Q(enabled_at=None), enabled_at=now(), off_reason="", num_failures=0)

    def turn_off(self, reason: str = "") -> bool:
        return self._change(~Q(enabled_at=None), enabled_at=None, off_reason=storable(reason))

    def count_success(self) -> None:
        self._change(Q(num_failures__gt=0), num_failures=0)

    def count_failure(self, said: str) -> None:
        """Turns it off when this was one too many."""
        self._change(Q(), num_failures=F("num_failures") + 1)
        if self.num_failures >= MAX_FAILURES:
            self.turn_off(f"The last {self.num_failures} deliveries failed, the last one so: {said}")

    def _change(self, condition: Q, **values: Any) -> bool:
        won = Channel.objects.filter(condition, pk=self.pk).update(**values) == 1
        self.refresh_from_db()
        return won


def _event_id() -> str:
    return f"evt_{uuid.uuid4().hex}"


class Notice(models.Model):
    """Something that happened. `key` names the happening, so that two sweeps write it down once."""

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="notices")
    event_id = models.CharField(max_length=40, unique=True, default=_event_id, editable=False)
    key = models.CharField(max_length=200, unique=True)
    event = models.CharField(max_length=10, choices=Event)
    subject_kind = models.CharField(max_length=10, blank=True, help_text="run, eval or cycle; empty for a test.")
    subject_id = models.PositiveBigIntegerField(default=0)
    subject_name = models.CharField(max_length=200, blank=True)
    path = models.CharField(max_length=200, blank=True, help_text="Its page, below the server's address.")
    sentence = models.TextField()
    occurred_at = models.DateTimeField()
    created_at = models.DateTimeField(default=now, db_index=True)

    def __str__(self) -> str:
        return self.sentence

    @property
    def type(self) -> str:
        """run.finished, eval.crashed, test …"""
        return f"{self.subject_kind}.{self.event}" if self.subject_kind else str(self.event)


class DeliveryStatus(models.TextChoices):
    """The words of every kind of work, so that a page colours them alike."""

    QUEUED = "queued", "Waiting"
    RUNNING = "running", "Sending"
    COMPLETED = "completed", "Delivered"
    FAILED = "failed", "Given up"


class DeliveryQuerySet(OwnedQuerySet):
    project_path = "channel__project"

    def abandoned(self) -> Self:
        """Claimed by a worker that is gone."""
        return self.filter(status=DeliveryStatus.RUNNING, claimed_until__lt=now())

    def unheard(self, *, late: timedelta, again: timedelta) -> Self:
        """Due for a while, and nobody was told since, or lately: the message to the workers was lost."""
        stale = Q(hinted_at=None) | Q(hinted_at__lt=F("due_at")) | Q(hinted_at__lt=now() - again)
        return self.filter(stale, status=DeliveryStatus.QUEUED, due_at__lt=now() - late)


class Delivery(models.Model):
    """One notice on its way to one channel. `num_tries` counts claims and fences them: only the newest may write the end."""

    notice = models.ForeignKey(Notice, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="deliveries")
    status = models.CharField(max_length=10, choices=DeliveryStatus, default=DeliveryStatus.QUEUED)
    num_tries = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField(default=now)
    claimed_until = models.DateTimeField(null=True)
    hinted_at = models.DateTimeField(null=True)
    response_code = models.PositiveSmallIntegerField(null=True, help_text="The last answer's, of a webhook that answered.")
    error = models.TextField(blank=True, help_text="What went wrong at the last try.")
    seconds = models.FloatField(null=True, help_text="How long the last try took.")
    created_at = models.DateTimeField(default=now)
    ended_at = models.DateTimeField(null=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "deliveries"
        ordering: ClassVar[list[str]] = ["-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["notice", "channel"], name="one_delivery_per_notice_and_channel")
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["status", "due_at"], name="delivery_by_due"),
            models.Index(fields=["channel", "-id"], name="delivery_by_channel"),
        ]

    def __str__(self) -> str:
        return f"{self.notice_id} → {self.channel_id}"

    @property
    def is_waiting(self) -> bool:
        return self.status in (DeliveryStatus.QUEUED, DeliveryStatus.RUNNING)

    @property
    def can_be_tried_again(self) -> bool:
        """A test is tried once: whoever sent it is looking."""
        return self.num_tries < MAX_TRIES and self.notice.event != Event.TEST

    def claim(self) -> bool:
        """queued → running, if it is due and nobody else was faster."""
        due = Q(status=DeliveryStatus.QUEUED, due_at__lte=now())
        return self._change(due, status=DeliveryStatus.RUNNING, claimed_until=now() + CLAIM, num_tries=F("num_tries") + 1)

    def delivered(self, *, response_code: int | None, seconds: float) -> bool:
        return self._end(DeliveryStatus.COMPLETED, response_code=response_code, seconds=seconds, error="")

    def give_up(self, error: str, *, response_code: int | None = None, seconds: float | None = None) -> bool:
        return self._end(DeliveryStatus.FAILED, response_code=response_code, seconds=seconds, error=storable(error))

    def put_off(self, until: datetime, error: str, *, response_code: int | None, seconds: float) -> bool:
        """running → queued, to be tried again then."""
        values: dict[str, Any] = {"response_code": response_code, "seconds": seconds, "error": storable(error)}
        return self._change(self._mine(), status=DeliveryStatus.QUEUED, due_at=until, claimed_until=None, **values)

    def take_back(self) -> bool:
        """running → queued at once: its worker is gone, and may or may not have sent it."""
        return self._change(
            self._mine() & Q(claimed_until__lt=now()), status=DeliveryStatus.QUEUED, due_at=now(), claimed_until=None
        )

    def hint(self) -> None:
        self._change(Q(), hinted_at=now())

    def _end(self, status: DeliveryStatus, **values: Any) -> bool:
        return self._change(self._mine(), status=status, claimed_until=None, ended_at=now(), **values)

    def _mine(self) -> Q:
        return Q(status=DeliveryStatus.RUNNING, num_tries=self.num_tries)

    def _change(self, condition: Q, **values: Any) -> bool:
        won = Delivery.objects.filter(condition, pk=self.pk).update(**values) == 1
        if won:
            self.refresh_from_db()
        return won


class Watch(models.Model):
    """Up to when the sweeps have looked; the one row there is outlives all workers."""

    seen_until = models.DateTimeField(default=now)

    def __str__(self) -> str:
        return self.seen_until.isoformat()
