"""How a row of work enters the queue, whatever kind it is: once per key, and announced when it is written."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from celery import Task
from django.db import IntegrityError, transaction
from django.http import QueryDict
from django.utils.timezone import now

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import User
from evsys_web.runs.status import Status
from evsys_web.runs.work import Tracked

W = TypeVar("W", bound=Tracked)


def submission_of(posted: QueryDict) -> str | None:
    """The key of a form as it was sent: sent twice it makes one thing, changed after the browser's Back it makes another. None
    without a submission_key."""
    if not posted.get("submission_key"):
        return None
    typed = sorted((name, values) for name, values in posted.lists() if name != "csrfmiddlewaretoken")
    return hashlib.sha256(json.dumps(typed).encode()).hexdigest()


def made_before(kind: type[W], user: User, key: str | None) -> W | None:
    """What this key from this person made the first time; None for no key."""
    made: W | None = kind._default_manager.filter(created_by=user, submission_key=key).first() if key else None
    return made


def queue_once(kind: type[W], task: Task, *, user: User, key: str | None, **values: Any) -> W:
    """A queued row of this kind, told to the workers. Where the same key from the same person came at the same moment (a form
    posted twice), the row that the other one made."""
    try:
        with transaction.atomic():
            work: W = kind._default_manager.create(
                created_by=user, status=Status.QUEUED, hinted_at=now(), submission_key=key or "", **values
            )
            record(user, "launched", work, after=facts(work))
            announce(work, task)
    except IntegrityError:
        made = made_before(kind, user, key)
        if made is None:
            raise
        return made
    return work


def announce(work: Tracked, task: Task) -> None:
    """Tell the workers once the row is written. A broker that is away only costs time: an idle worker's sweep finds the row."""
    pk = work.pk
    transaction.on_commit(lambda: task.delay(pk), robust=True)
