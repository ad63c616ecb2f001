"""Real workers: a run fails in one, its own sweep notices, another process tells the receiver, and again when it must."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from evsys_web.notifications.actions import add_channel
from evsys_web.notifications.models import Delivery, DeliveryStatus
from evsys_web.runs.actions import launch_run
from evsys_web.runs.models import Status
from recipes.config import RunConfig
from tests.evsys_web.notifications.conftest import EVENTS
from tests.evsys_web.notifications.receiver import receiver
from tests.evsys_web.runs.conftest import mock_config
from tests.evsys_web.runs.conftest import version as version
from tests.evsys_web.workers import StartWorker, kill, send_hint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.fault("kill -9 of the messenger, the receiver away", "Delivered when both are back.")
def test_a_failed_run_is_told_although_the_receiver_was_away_and_the_messenger_killed(
    start_worker: StartWorker, alice: Any, project: Any, version: Any
) -> None:
    with receiver(500, 200) as server:
        channel, _ = add_channel(user=alice, project=project, kind="webhook", target=server.url, events=EVENTS)
        run = launch_run(user=alice, project=project, dataset_version=version, config=RunConfig.from_values(mock_config()))
        version.dataset.delete()
        start_worker()
        send_hint(run)
        messenger = start_worker("messages", "-P", "threads")
        server.wait_for(1, seconds=60)
        wait_until(lambda: Delivery.objects.filter(num_tries=1, status=DeliveryStatus.QUEUED).exists())
        kill(messenger)  # and the message that Celery kept for later
        start_worker("messages", "-P", "threads")
        first, second = server.wait_for(2, seconds=60)
    run.refresh_from_db()
    assert run.status == Status.FAILED
    assert first.message == second.message and first.message["type"] == "run.failed"
    assert first.message["message"] == run.error
    assert Delivery.objects.get(channel=channel).num_tries >= 2
