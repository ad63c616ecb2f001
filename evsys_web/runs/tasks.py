"""What a worker does. A message is only a hint that something waits: whoever gets it takes the run whose turn it is (`turns.py`).

Two runs queue behind each other because the queue `training` is read by a worker with one process (`manage.py up` starts it so);
another worker on another machine takes the next run.
"""

from __future__ import annotations

import mmap
import socket
from typing import Any, TypeVar

from celery import Task, shared_task
from celery.signals import worker_ready, worker_shutting_down
from django.conf import settings
from django.utils.module_loading import import_string

import recipes
from evsys_web.runs.backends import backend_secrets
from evsys_web.runs.leases import Sweeper, announcing_the_end, kinds
from evsys_web.runs.leftovers import Tidying
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.recorder import RunRecorder
from evsys_web.runs.turns import take, untold
from evsys_web.runs.work import Work

W = TypeVar("W", bound=Work)
_leaving = mmap.mmap(-1, 1)
"""Not 0 once the worker shuts down: shared with the pool's processes, which must not begin what was handed back a moment ago."""
_sweepers: dict[str, Sweeper] = {}


@shared_task(bind=True)
def train_run(self: Task, run_id: int) -> None:
    """Train the run whose turn it is from its config and rows; a second attempt goes on from its newest checkpoint."""
    run = taken(self, TrainingRun, run_id)
    if run is None:
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


def taken(task: Task, model: type[W], pk: int) -> W | None:
    """What this message lets the worker do: a message from the broker, the row whose turn it is; a call in this process, as a
    command makes it, the very row that it names."""
    is_named = task.request.called_directly or task.request.is_eager
    if not is_named and _leaving[0]:
        untold(model)  # for another worker, or this one's next start
        return None
    return take(model, task.request.hostname or socket.gethostname(), named=pk if is_named else None)


@worker_ready.connect
def begin_sweeping(sender: Any, **kwargs: Any) -> None:
    app = sender.app
    queues = {model: app.amqp.router.route({}, model.TASK)["queue"].name for model in kinds()}
    mine = {model: app.tasks[model.TASK].delay for model, queue in queues.items() if queue in app.amqp.queues.consume_from}
    further = [import_string(path) for path in settings.SWEEPS] + ([Tidying()] if TrainingRun in mine else [])
    concurrency = sender.controller.concurrency
    forks = type(sender.pool).__module__ == "celery.concurrency.prefork"
    sweeper = Sweeper(sender.hostname, sends=mine, further=further, concurrency=concurrency, forks=forks)
    _sweepers[sender.hostname] = sweeper
    sweeper.start()


@worker_shutting_down.connect
def end_sweeping(sender: str, **kwargs: Any) -> None:
    """Called inside a signal handler, so it only sets flags; the sweeping thread does the rest."""
    _leaving[0] = 1
    if sweeper := _sweepers.pop(sender, None):
        sweeper.end()
