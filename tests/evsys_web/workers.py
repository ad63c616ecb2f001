"""Real workers in processes of their own, on the test's database and files, as `manage.py up` starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from django.conf import settings
from django.db import connection
from pytest_django.fixtures import Settings

from evsys_web.celery import app
from evsys_web.runs.work import Tracked

LEASE_SECONDS = 6
QUEUES = "training,evals,default"
StartWorker = Callable[..., "subprocess.Popen[bytes]"]


def broker_url() -> str:
    """Of workers: a Redis that the tests have, else files, for what a test has in its own memory reaches nobody."""
    url = str(settings.CELERY_BROKER_URL)
    return url if url.startswith("redis:") else "filesystem://"


@pytest.fixture
def start_worker(settings: Settings) -> Iterator[StartWorker]:
    """Starts a worker: one process, by default for all that there is to do. Variables are added to its environment."""
    name = str(connection.settings_dict["NAME"])
    server = urlsplit(os.environ.get("DATABASE_URL", ""))
    settings.RUNS_DIR = settings.HOME / "runs"
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "evsys_web.settings",
        "EVSYS_HOME": str(settings.HOME),
        "DATABASE_URL": f"sqlite:///{name}" if connection.vendor == "sqlite" else server._replace(path=f"/{name}").geturl(),
        "CELERY_BROKER_URL": broker_url(),
        "RUN_LEASE_SECONDS": str(LEASE_SECONDS),
        "CELERY_SKIP_CHECKS": "1",
    }
    if broker_url().startswith("redis:"):  # the messages of tests before this one are still there
        with redis.Redis.from_url(broker_url()) as broker:
            broker.flushdb()
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "evsys_web", "worker", "-c", "1"]
    started: list[subprocess.Popen[bytes]] = []

    def start(queues: str = QUEUES, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        command = [*celery, "-Q", queues, "-n", f"{queues.replace(',', '-')}@%h", *arguments]
        started.append(subprocess.Popen(command, cwd=settings.ROOT, env=environment | variables, start_new_session=True))
        return started[-1]

    yield start
    for worker in started:
        kill(worker)


def kill(worker: subprocess.Popen[bytes]) -> None:
    """The worker and its pool, as the kernel does it when memory is short."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def send_hint(work: Tracked) -> None:
    """The message that a launch sends; tests' own broker is in memory, workers' is not."""
    broker = broker_url()
    sender = Celery(broker=broker, set_as_current=False)
    if broker.startswith("filesystem:"):
        folders = {name: str(Path(settings.HOME) / "broker" / "queue") for name in ("data_folder_in", "data_folder_out")}
        sender.conf.broker_transport_options = folders | {"control_folder": str(Path(settings.HOME) / "broker" / "control")}
    queue = app.amqp.router.route({}, work.TASK)["queue"].name
    sender.send_task(work.TASK, args=[work.pk], queue=queue)
