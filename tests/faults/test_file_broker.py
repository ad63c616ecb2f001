"""The folder of the file broker cannot be used for a while, as when a disk is not mounted: what is at work goes on, and what is
launched meanwhile begins afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from kombu.exceptions import KombuError
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import launch_run, stop_run
from evsys_web.runs.models import Status, TrainingRun
from recipes.config import RunConfig
from tests.evsys_web import workers
from tests.evsys_web.runs.conftest import mock_config
from tests.evsys_web.runs.conftest import version as version
from tests.evsys_web.workers import StartWorker, send_hint
from tests.evsys_web.workers import start_worker as start_worker
from tests.faults.dying import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

AWAY_SECONDS = 10.0


@pytest.mark.fault(
    "The folder of the file broker is away in mid run, and while another run is launched",
    "The first goes on in the same worker, can be stopped and ends; the second begins some seconds after the folder's return.",
)
def test_a_run_outlives_a_file_broker_that_is_away(
    start_worker: StartWorker,
    alice: User,
    project: Project,
    version: DatasetVersion,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "broker_url", lambda: "filesystem://")  # where the tests have Redis, too

    def launch(steps: int) -> TrainingRun:
        config = RunConfig.from_values(mock_config(max_steps=steps, step_seconds=0.05))
        return launch_run(user=alice, project=project, config=config, dataset_version=version)

    def reaches(run: TrainingRun, step: int) -> None:
        eventually(lambda: TrainingRun.objects.get(pk=run.pk).step >= step)

    first = launch(100_000)
    worker = start_worker(CELERY_BROKER_URL=workers.broker_url())
    reaches(first, 2)
    pools = psutil.Process(worker.pid).children()

    with away(Path(settings.HOME) / "broker"):
        second = launch(3)
        with pytest.raises((OSError, KombuError)):
            send_hint(second)
        time.sleep(AWAY_SECONDS)
        reaches(first, TrainingRun.objects.get(pk=first.pk).step + 20)
        stop_run(user=alice, run=first)
        eventually(lambda: TrainingRun.objects.get(pk=first.pk).has_ended)

    eventually(lambda: TrainingRun.objects.get(pk=second.pk).has_ended)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, first.attempt, second.status) == (Status.CANCELLED, 1, Status.COMPLETED), (
        f"{first.error} {second.error}"
    )
    assert worker.poll() is None and psutil.Process(worker.pid).children() == pools


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """A file is in its place, so that nobody can make it anew."""
    elsewhere = folder.with_name(f"{folder.name}.away")
    folder.rename(elsewhere)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        elsewhere.rename(folder)
