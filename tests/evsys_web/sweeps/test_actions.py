"""What is made of a sweep, all or nothing; and what can be done with all of its runs at once."""

from __future__ import annotations

import threading

import pytest
from django.core.exceptions import PermissionDenied
from django.db import connection

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.sweeps import actions
from evsys_web.sweeps.models import Sweep
from recipes.errors import ConfigError
from recipes.sweep_config import SweepConfig
from tests.evsys_web.sweeps.conftest import RATE, MakeSweep, sweep_values

pytestmark = pytest.mark.django_db


def test_all_of_its_runs_wait_in_the_queue_with_their_own_settings(sweep: Sweep, alice: User, version: DatasetVersion) -> None:
    members = list(sweep.members.select_related("run"))
    assert [(each.combination, each.seed) for each in members] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    params = [each.run.config["algorithm"]["params"] for each in members]
    planned = [(rate, seed) for rate in (0.01, 0.1) for seed in range(3)]
    assert [(each["learning_rate"], each["seed"]) for each in params] == planned
    runs = TrainingRun.objects.all()
    assert {run.status for run in runs} == {Status.QUEUED}
    assert {run.dataset_version_id for run in runs} == {version.pk} and {run.created_by for run in runs} == {alice}
    assert SweepConfig.from_yaml(sweep.load_config().to_yaml()) == sweep.load_config()


def test_the_same_key_makes_one_sweep(make_sweep: MakeSweep) -> None:
    assert make_sweep(idempotency_key="a").pk == make_sweep(idempotency_key="a").pk
    assert TrainingRun.objects.count() == 6
    assert make_sweep(idempotency_key="b").pk != make_sweep(idempotency_key="a").pk


@pytest.mark.django_db(transaction=True)
def test_the_same_key_at_the_same_moment_makes_one_sweep(make_sweep: MakeSweep) -> None:
    found: list[int] = []

    def launch() -> None:
        try:
            found.append(make_sweep(idempotency_key="a").pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=launch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3 and len(set(found)) == 1
    assert Sweep.objects.count() == 1 and TrainingRun.objects.count() == 6


def test_one_run_that_is_refused_leaves_nothing_behind(make_sweep: MakeSweep) -> None:
    """The last value of the last axis names a model that cannot be: five runs were fine until then."""
    with pytest.raises(ConfigError, match=r"axis model.name, value \.\./secret: ") as refused:
        make_sweep({"model.name": ["starter", "../secret"]})
    assert refused.value.path == ("matrix", "axes", "model.name")
    assert not Sweep.objects.exists() and not TrainingRun.objects.exists()


def test_a_foreign_runs_folder_is_refused_as_anywhere(make_sweep: MakeSweep, mallory: User, runs_dir: object) -> None:
    with pytest.raises(ConfigError, match="axis model.init_from_checkpoint, value .*that you can see"):
        make_sweep({"model.init_from_checkpoint": [f"{runs_dir}/9999/checkpoints/final/sampler"]})
    assert not TrainingRun.objects.exists()


def test_a_stranger_makes_none(mallory: User, project: Project, version: DatasetVersion) -> None:
    config = SweepConfig.from_values(sweep_values())
    with pytest.raises(PermissionDenied):
        actions.launch_sweep(user=mallory, project=project, config=config, dataset_version=version)
    assert not TrainingRun.objects.exists()


def test_stop_stops_what_can_be_stopped_and_resume_takes_up_what_did_not_complete(sweep: Sweep, alice: User) -> None:
    first, second, third, *rest = TrainingRun.objects.order_by("pk")
    assert first.start("worker") and second.start("worker") and second.complete()
    assert third.start("worker") and third.fail("The disk is full.")
    assert actions.stop_sweep(user=alice, sweep=sweep) == 1 + len(rest)
    by_status = dict(TrainingRun.objects.values_list("pk", "status"))
    assert by_status[first.pk] == Status.STOPPING and by_status[second.pk] == Status.COMPLETED
    assert {by_status[run.pk] for run in rest} == {Status.CANCELLED}
    assert actions.resume_sweep(user=alice, sweep=sweep) == 1 + len(rest)
    by_status = dict(TrainingRun.objects.values_list("pk", "status"))
    assert by_status[third.pk] == Status.QUEUED and by_status[second.pk] == Status.COMPLETED
    with pytest.raises(RunRefused, match="None of its runs failed"):
        actions.resume_sweep(user=alice, sweep=sweep)


def test_it_is_deleted_with_its_runs_but_not_while_they_wait(sweep: Sweep, alice: User, bob: User, mallory: User) -> None:
    with pytest.raises(RunRefused, match="6 runs wait or are still at work"):
        actions.delete_sweep(user=alice, sweep=sweep)
    actions.stop_sweep(user=alice, sweep=sweep)
    for person in (bob, mallory):
        with pytest.raises(PermissionDenied):
            actions.delete_sweep(user=person, sweep=sweep)
    folder = TrainingRun.objects.all()[0].output_dir
    folder.mkdir(parents=True)
    actions.delete_sweep(user=alice, sweep=sweep)
    assert not Sweep.objects.exists() and not TrainingRun.objects.exists()


def test_a_run_that_is_deleted_alone_leaves_its_sweep(sweep: Sweep, alice: User) -> None:
    actions.stop_sweep(user=alice, sweep=sweep)
    TrainingRun.objects.order_by("pk")[0].delete()
    assert sweep.members.count() == 5
    assert sweep.axes == {RATE: [0.01, 0.1]}
