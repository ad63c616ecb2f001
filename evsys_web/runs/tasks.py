"""What a worker does. A message carries a run's id and is only a hint: whoever wins `run.start()` trains, anybody else returns.

Two runs queue behind each other because the queue `training` is read by a worker with one process (`manage.py up` starts it so);
another worker on another machine takes the next run.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from celery import Task, shared_task
from celery.signals import worker_ready, worker_shutting_down
from django.conf import settings
from django.utils.module_loading import import_string

import recipes
from evsys_web.runs.backends import backend_secrets
from evsys_web.runs.leases import Sweeper, announcing_the_end, kinds
from evsys_web.runs.leftovers import tidy_up
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.recorder import RunRecorder

_sweepers: dict[str, Sweeper] = {}


@shared_task(bind=True)
def train_run(self: Task, run_id: int) -> None:
    """Train the run from its config and rows; a second attempt goes on from its newest checkpoint."""
    run = TrainingRun.objects.select_related("project").filter(pk=run_id).first()
    if run is None or not run.start(self.request.hostname or socket.gethostname()):
        return
    with announcing_the_end(), RunRecorder(run) as recorder:
        config = run.load_config()
        recorder.result = recipes.train(
            config,
            run_id=str(run.pk),
            output_dir=run.output_dir,
            rows=run.read_rows(),
            validation_rows=run.read_validation_rows(),
            callbacks=[recorder],
            secrets=backend_secrets(run.project, config.backend),
            resume=run.attempt > 1,
        )


@worker_ready.connect
def begin_sweeping(sender: Any, **kwargs: Any) -> None:
    app = sender.app
    queues = {model: app.amqp.router.route({}, model.TASK)["queue"].name for model in kinds()}
    mine = {model: app.tasks[model.TASK].delay for model, queue in queues.items() if queue in app.amqp.queues.consume_from}
    further = [import_string(path) for path in settings.SWEEPS]
    _sweepers[sender.hostname] = Sweeper(sender.hostname, sends=mine, further=further)
    _sweepers[sender.hostname].start()
    if TrainingRun in mine:
        threading.Thread(target=tidy_up, name="tidy-up", daemon=True).start()


@worker_shutting_down.connect
def end_sweeping(sender: str, **kwargs: Any) -> None:
    """Called inside a signal handler, so it only sets a flag; the sweeping thread does the rest."""
    if sweeper := _sweepers.pop(sender, None):
        sweeper.end()
