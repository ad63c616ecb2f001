"""Who may launch, stop, resume and delete a run, and what each refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.exceptions import PermissionDenied
from pytest_django.fixtures import DjangoCaptureOnCommitCallbacks

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import RunRefused, delete_run, launch_run, resume_run, stop_run
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.tasks import train_run
from recipes.config import RunConfig
from recipes.errors import ConfigError, DataError
from tests.evsys_web.runs.conftest import MakeRun, mock_config


def config(**model: str) -> RunConfig:
    return RunConfig.model_validate(mock_config() | {"model": {"name": "starter"} | model})


def test_a_launched_run_waits_in_the_queue_with_its_config_and_dataset(
    alice: User, project: Project, version: DatasetVersion
) -> None:
    run = launch_run(user=alice, project=project, config=config(), dataset_version=version)
    assert (run.status, run.dataset_reference, run.name, run.created_by) == (Status.QUEUED, "sums@1", "sums", alice)
    assert run.load_config().data.dataset == "sums@1"
    assert len(run.read_rows()) == 12


def test_a_form_posted_twice_makes_one_run(alice: User, bob: User, project: Project, version: DatasetVersion) -> None:
    first, second = (
        launch_run(user=alice, project=project, config=config(), dataset_version=version, idempotency_key="k") for _ in range(2)
    )
    assert first == second
    assert launch_run(user=bob, project=project, config=config(), dataset_version=version, idempotency_key="k") != first
    assert TrainingRun.objects.count() == 2


def test_a_stranger_cannot_do_anything_with_a_run(
    mallory: User, project: Project, version: DatasetVersion, run: TrainingRun
) -> None:
    with pytest.raises(PermissionDenied):
        launch_run(user=mallory, project=project, config=config(), dataset_version=version)
    for action in (stop_run, resume_run, delete_run):
        with pytest.raises(PermissionDenied):
            action(user=mallory, run=run)
    run.refresh_from_db()
    assert run.status == Status.QUEUED


def test_rows_of_another_project_are_refused(alice: User, version: DatasetVersion) -> None:
    other = Project.objects.create_for(alice, name="Other")
    with pytest.raises(ConfigError) as refused:
        launch_run(user=alice, project=other, config=config(), dataset_version=version)
    assert refused.value.path == ("data", "dataset")


def test_rows_that_the_algorithm_cannot_learn_from_are_refused_before_they_wait(
    alice: User, project: Project, version: DatasetVersion
) -> None:
    type(version).objects.filter(pk=version.pk).update(format="task")
    version.refresh_from_db()
    with pytest.raises(ConfigError, match="sft learns from messages rows, and .* holds task rows") as refused:
        launch_run(
            user=alice, project=project, config=RunConfig.model_validate({"data": {"dataset": "sums@1"}}), dataset_version=version
        )
    assert refused.value.path == ("data", "dataset")
    assert not TrainingRun.objects.exists()


def test_a_folder_of_a_run_one_cannot_see_is_no_place_to_begin_from(
    alice: User, mallory: User, version: DatasetVersion, project: Project, make_run: MakeRun, runs_dir: Path
) -> None:
    hidden = make_run(project=mallory.default_project())
    seen = make_run()
    for name in (f"{runs_dir}/{hidden.pk}/checkpoints/final", f"{runs_dir}/{seen.pk}/../{hidden.pk}", str(runs_dir)):
        with pytest.raises(ConfigError, match="no checkpoint"):
            launch_run(user=alice, project=project, config=config(init_from_checkpoint=name), dataset_version=version)
    own = f"{runs_dir}/{seen.pk}/checkpoints/final"
    assert launch_run(user=alice, project=project, config=config(init_from_checkpoint=own), dataset_version=version)


def test_a_broker_that_is_away_does_not_lose_the_run(
    alice: User,
    project: Project,
    version: DatasetVersion,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(train_run, "delay", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        run = launch_run(user=alice, project=project, config=config(), dataset_version=version)
    run.refresh_from_db()
    assert run.status == Status.QUEUED


def test_stopping_a_run_that_has_ended_is_refused_with_a_sentence(alice: User, run: TrainingRun) -> None:
    assert stop_run(user=alice, run=run).status == Status.CANCELLED
    assert run.events.get().message == "Stop asked by alice."
    with pytest.raises(RunRefused, match="is cancelled and cannot be stopped"):
        stop_run(user=alice, run=run)


def test_a_resumed_run_is_announced_when_its_row_is_written(
    alice: User, version: DatasetVersion, make_run: MakeRun, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    run = make_run(status=Status.CRASHED, dataset_version=version, error="gone")
    with django_capture_on_commit_callbacks() as announced:
        resume_run(user=alice, run=run)
    assert len(announced) == 1 and run.status == Status.QUEUED
    with pytest.raises(RunRefused, match="is queued and cannot be resumed"):
        resume_run(user=alice, run=run)


def test_a_run_on_a_deleted_dataset_says_so(alice: User, version: DatasetVersion, make_run: MakeRun) -> None:
    run = make_run(status=Status.CANCELLED, dataset_version=version)
    version.dataset.delete()
    with pytest.raises(RunRefused, match=r"sums@1 was deleted"):
        resume_run(user=alice, run=run)
    run.refresh_from_db()
    with pytest.raises(DataError, match=r"sums@1 was deleted"):
        run.read_rows()


def test_a_running_run_is_not_deleted(alice: User, held_run: TrainingRun) -> None:
    with pytest.raises(RunRefused, match="Stop it first"):
        delete_run(user=alice, run=held_run)
    assert TrainingRun.objects.filter(pk=held_run.pk).exists()


def test_a_deleted_run_takes_its_folder_along(
    alice: User, run: TrainingRun, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    (run.output_dir / "checkpoints").mkdir(parents=True)
    folder = run.output_dir
    with django_capture_on_commit_callbacks(execute=True):
        delete_run(user=alice, run=run)
    assert not TrainingRun.objects.exists() and not folder.exists()


def test_a_member_deletes_only_runs_of_their_own(bob: User, run: TrainingRun, make_run: MakeRun) -> None:
    with pytest.raises(PermissionDenied, match="Only whoever made this"):
        delete_run(user=bob, run=run)
    delete_run(user=bob, run=make_run(created_by=bob))
