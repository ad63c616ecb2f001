"""Channels of alice's, and runs that ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils.timezone import now

from evsys_web.accounts.models import Project, User
from evsys_web.notifications.actions import add_channel
from evsys_web.notifications.models import CHOOSABLE, Channel, Watch
from evsys_web.runs.models import Status, TrainingRun

EVENTS = [event.value for event in CHOOSABLE]
MakeChannel = Callable[..., Channel]
MakeRun = Callable[..., TrainingRun]


@pytest.fixture
def make_channel(alice: User, project: Project) -> MakeChannel:
    """A webhook, on for an hour already."""

    def make(target: str = "https://example.org/hook", **values: Any) -> Channel:
        added = add_channel(
            **({"user": alice, "project": project, "kind": "webhook", "target": target, "events": EVENTS} | values)
        )
        Channel.objects.filter(pk=added.channel.pk).update(enabled_at=now() - timedelta(hours=1))
        added.channel.refresh_from_db()
        return added.channel

    return make


@pytest.fixture
def end_run(alice: User, project: Project) -> MakeRun:
    def make(status: Status = Status.COMPLETED, **values: Any) -> TrainingRun:
        defaults = {"project": project, "created_by": alice, "name": "sums", "step": 240, "finished_at": now(), "status": status}
        run: TrainingRun = TrainingRun.objects.create(**(defaults | values))
        return run

    return make


@pytest.fixture(autouse=True)
def looked_a_moment_ago(db: None) -> None:
    Watch.objects.create(pk=1, seen_until=now())
