"""A whole run through the task, on the mock algorithm: the same door as a worker's."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.celery import app
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs import metrics, tasks
from evsys_web.runs.actions import launch_run
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.tasks import train_run
from recipes.config import RunConfig
from tests.evsys_web.runs.conftest import mock_config

pytestmark = pytest.mark.django_db(transaction=True)


def launched(user: User, project: Project, version: DatasetVersion, **params: object) -> TrainingRun:
    config = RunConfig.model_validate(mock_config(**params))
    return launch_run(user=user, project=project, config=config, dataset_version=version)


def steps_of(run: TrainingRun) -> list[int]:
    return [row.step for row in metrics.rows(run) if "train/mean_nll" in row.values]


def test_a_run_trains_to_its_end_and_leaves_points_and_a_checkpoint(
    alice: User, project: Project, version: DatasetVersion, eager_tasks: None
) -> None:
    run = launched(alice, project, version, max_steps=30, save_every=10)
    run.refresh_from_db()
    assert (run.status, run.step, run.num_steps, run.error) == (Status.COMPLETED, 30, 30, "")
    assert steps_of(run) == list(range(1, 31))
    assert [saved.step for saved in run.checkpoints.all()] == [30, 20, 10]
    assert {"train/mean_nll", "optim/lr", "tokens/total"} <= set(metrics.keys(run))


@pytest.mark.fault("Two workers get the same task", "One trains, the other does nothing.")
def test_a_message_that_comes_twice_trains_once(
    alice: User, project: Project, version: DatasetVersion, eager_tasks: None
) -> None:
    run = launched(alice, project, version, max_steps=5)
    train_run.delay(run.pk)
    run.refresh_from_db()
    assert run.attempt == 1 and steps_of(run) == [1, 2, 3, 4, 5]


def test_a_message_for_a_run_that_is_gone_is_passed_over(eager_tasks: None) -> None:
    train_run.delay(404)


def test_a_run_whose_dataset_was_deleted_while_it_waited_fails_with_a_sentence(
    alice: User, project: Project, version: DatasetVersion
) -> None:
    run = launched(alice, project, version)
    version.dataset.delete()
    train_run.apply(args=[run.pk])
    run.refresh_from_db()
    assert run.status == Status.FAILED and "sums@1 was deleted" in run.error and run.error_detail == ""


def test_a_config_that_no_longer_fits_fails_with_the_place_of_the_mistake(
    alice: User, project: Project, version: DatasetVersion
) -> None:
    run = launched(alice, project, version)
    TrainingRun.objects.update(config=mock_config(learning_rate=-1))
    train_run.apply(args=[run.pk])
    run.refresh_from_db()
    assert run.status == Status.FAILED and "algorithm.params.learning_rate" in run.error


@pytest.mark.parametrize(("pool", "forks"), [("prefork", True), ("solo", False), ("thread", False)])
def test_only_a_worker_of_processes_gives_its_pool_of_connections_up(
    monkeypatch: pytest.MonkeyPatch, pool: str, forks: bool
) -> None:
    """Where the work is done in the worker's own process, the pool is the work's as well."""
    made: list[dict[str, Any]] = []

    class Sweeper:
        def __init__(self, worker: str, **options: Any) -> None:
            made.append(options)

        def start(self) -> None: ...

    monkeypatch.setattr(tasks, "Sweeper", Sweeper)
    monkeypatch.setattr(tasks, "_sweepers", {})
    monkeypatch.setattr(tasks, "kinds", list)
    module = import_module(f"celery.concurrency.{pool}")
    controller = SimpleNamespace(concurrency=1)
    sender = SimpleNamespace(app=app, hostname="w", controller=controller, pool=module.TaskPool.__new__(module.TaskPool))
    tasks.begin_sweeping(sender)
    assert [each["forks"] for each in made] == [forks]
