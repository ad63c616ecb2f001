"""The Celery application. A message only hints that a row waits; the row is the queue (see runs/models.py)."""

from __future__ import annotations

import os
import threading
import warnings
from typing import Any

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import worker_process_init

from evsys_web import broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evsys_web.settings")
broker.register()
warnings.filterwarnings("ignore", category=SecurityWarning)  # of root in a container: its reason, pickle, is not accepted here
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)  # PEFT still asks by that name

app = Celery("evsys_web")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_process_init.connect
def die_with_the_worker(**kwargs: Any) -> None:
    """A pool process whose worker was killed would go on training unseen. (Linux' own death signal follows threads, and the
    pool forks from one that ends before a warm stop does, hence a watch.)"""
    parent = os.getppid()

    def watch() -> None:
        while not threading.Event().wait(1.0):
            if os.getppid() != parent:
                os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
