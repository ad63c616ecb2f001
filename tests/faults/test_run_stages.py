"""kill -9 at every stage of a run: nothing lost, nothing doubled, nothing stuck, and it is said."""

from __future__ import annotations

from functools import partial
from threading import Thread

import pytest
from django.db import connections

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs import metrics
from evsys_web.runs.actions import launch_run, resume_run
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.recorder import RunRecorder
from evsys_web.runs.tasks import train_run
from recipes.backends.mock import MockBackend
from recipes.checkpoints import Manifest
from recipes.config import RunConfig
from tests.evsys_web.runs.conftest import mock_config
from tests.evsys_web.runs.conftest import runs_dir as runs_dir
from tests.evsys_web.runs.conftest import version as version
from tests.faults.dying import Place, died_in, do_and_die, swept
from tests.faults.dying import short_lease as short_lease

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900), pytest.mark.usefixtures("short_lease")]

STEPS = 9
RUN = {
    "queued: a worker reaches for it": Place(TrainingRun, "start"),
    "starting: it has its lease": Place(TrainingRun, "load_config"),
    "starting: its first transaction is open": Place(TrainingRun, "run_begun", after=True),
    "running: in a step": Place(MockBackend, "optim_step_async", time=5),
    "running: the transaction of a step is open": Place(metrics, "write", time=4, after=True),
    "running: a step is committed": Place(RunRecorder, "_tidy", time=4),
    "saving: nothing is written": Place(MockBackend, "save_full_state", time=2),
    "saving: weights are written, the manifest is not": Place(Manifest, "append", time=2),
    "saving: the manifest is written, the row is not": Place(RunRecorder, "on_checkpoint", time=2),
    "saving: all is written": Place(RunRecorder, "on_checkpoint", time=2, after=True),
    "ending: its points are half folded": Place(metrics, "_chunks_of"),
    "ending: all is done but its status": Place(TrainingRun, "complete"),
}
STOPPING = {
    "stopping: it was asked": Place(TrainingRun, "request_stop", after=True),
    "stopping: it saves": Place(MockBackend, "save_full_state", time=2),  # the first is of step 3, before it is asked
    "stopping: all is done but its status": Place(TrainingRun, "cancel"),
}
STANDS = {"saving": Status.RUNNING, "ending": Status.RUNNING}
"""What the row says in a stage, where that is another word."""


@pytest.mark.fault(
    "kill -9 of the worker at each stage of a run: queued, starting, running, saving (four moments), stopping, ending; and again "
    "while it resumes",
    "Crashed within a lease, with where it goes on; resumed, no step or checkpoint lost or doubled.",
    kills={"worker"},
    during={"run"},
)
def test_a_run_survives_a_death_at_every_stage(alice: User, project: Project, version: DatasetVersion) -> None:
    for stage, place in (RUN | STOPPING).items():
        config = RunConfig.from_values(mock_config(max_steps=STEPS, save_every=3))
        run = launch_run(user=alice, project=project, config=config, dataset_version=version)
        train, resume = partial(train_run.apply, args=[run.pk]), partial(resume_run_of, alice)
        do_and_die(train, place, first=partial(stop_in_mid_run, run) if stage in STOPPING else None)
        died_in(run, stage, STANDS)
        swept(run, stage, resume)
        do_and_die(train, Place(TrainingRun, "run_begun", after=True))
        swept(run, stage, resume)
        train_run.apply(args=[run.pk], throw=True)
        run.refresh_from_db()
        assert (run.status, run.step, run.lease_owner) == (Status.COMPLETED, STEPS, ""), f"{stage}: {run.error}"
        assert [row.step for row in metrics.rows(run)] == list(range(1, STEPS + 1)), stage
        saved = sorted(run.checkpoints.values_list("step", flat=True))
        assert [step for step in saved if step % 3 == 0] == [3, 6, 9] and len(saved) <= 3 + (stage in STOPPING), stage
        assert len({row.seq for row in metrics.rows(run)}) == STEPS, stage


def resume_run_of(user: User, run: TrainingRun) -> None:
    resume_run(user=user, run=run)


def stop_in_mid_run(run: TrainingRun) -> None:
    """Asked when the fourth step is done, by another thread, as by another process; obeyed by the sixth, which waits for the
    commit after."""

    def ask() -> None:
        TrainingRun.objects.get(pk=run.pk).request_stop()
        connections.close_all()

    def ask_and_wait(*_: object) -> None:
        thread = Thread(target=ask)
        thread.start()
        thread.join()

    Place(RunRecorder, "on_step_end", time=4, after=True).lay(ask_and_wait)
