"""What runs leave on Fireworks is removed when they are deleted or abandoned, and never under a run that is at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from weakref import WeakSet

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.utils.timezone import now

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.runs import leases, leftovers
from evsys_web.runs.actions import delete_run
from evsys_web.runs.leftovers import Leftover, Tidying, tidy_up
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.sweeps.actions import delete_sweep
from evsys_web.sweeps.models import Sweep, SweepRun
from recipes.resources import RESOURCES_FILE, Resource, ResourceLog
from tests.evsys_web.runs.conftest import MakeRun
from tests.fireworks_server import ACCOUNT, KEY, Dataset, FireworksServer, Job, State, fireworks_server
from tests.fireworks_trainers import Trainer

pytestmark = pytest.mark.django_db(transaction=True)
LONG_AGO = timedelta(days=3)


@pytest.fixture
def server() -> Iterator[FireworksServer]:
    with fireworks_server() as made:
        made.datasets["rows-1"] = Dataset({})
        made.jobs["job-1"] = Job({"dataset": "d", "outputModel": "m"}, [State("RUNNING")] * 100)
        yield made


@pytest.fixture
def ended(server: FireworksServer, alice: User, project: Project, make_run: MakeRun) -> TrainingRun:
    """It failed long ago, and its dataset and job are still there."""
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    backend = {"kind": "fireworks", "params": {"base_url": server.url, "credential": "fireworks", "timeout_seconds": 60}}
    run = make_run(status=Status.FAILED, finished_at=now() - LONG_AGO, config={"backend": backend})
    log = ResourceLog(run.output_dir)
    log.plan(Resource("dataset", "rows-1", ACCOUNT))
    log.plan(Resource("sft_job", "job-1", ACCOUNT))
    return run


def reaped(*arguments: str) -> str:
    out = StringIO()
    call_command("reap", *arguments, stdout=out)
    return out.getvalue()


def test_what_an_abandoned_run_left_is_removed_once(server: FireworksServer, ended: TrainingRun) -> None:
    assert "2 things were removed" in reaped()
    assert not server.datasets and server.jobs["job-1"].ended == "CANCELLED"
    asked = len(server.requests)
    assert "Nothing was removed" in reaped() and len(server.requests) == asked


def test_a_dry_run_asks_nobody(server: FireworksServer, ended: TrainingRun) -> None:
    assert "dataset rows-1 would be removed" in reaped("--dry-run") and not server.requests


@pytest.mark.parametrize("status", [Status.QUEUED, Status.STARTING, Status.RUNNING, Status.STOPPING])
def test_nothing_is_taken_from_a_run_that_may_go_on(server: FireworksServer, ended: TrainingRun, status: Status) -> None:
    TrainingRun.objects.filter(pk=ended.pk).update(status=status)
    assert "Nothing" in reaped("--hours", "0") and not server.requests


def test_a_run_that_ended_lately_may_still_be_resumed(server: FireworksServer, ended: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=ended.pk).update(finished_at=now())
    assert "Nothing" in reaped() and not server.requests
    assert "2 things" in reaped("--hours", "0")


def test_a_trainer_that_costs_while_it_is_there_goes_minutes_after_its_run(server: FireworksServer, ended: TrainingRun) -> None:
    server.trainers.trainers["trainer-1"] = Trainer({}, ["RUNNING"])
    ResourceLog(ended.output_dir).plan(Resource("trainer", "trainer-1", ACCOUNT))
    TrainingRun.objects.filter(pk=ended.pk).update(finished_at=now() - timedelta(minutes=5))
    assert "Nothing" in reaped() and server.trainers.up
    TrainingRun.objects.filter(pk=ended.pk).update(finished_at=now() - timedelta(minutes=11))
    tidy_up()
    assert not server.trainers.up and server.trainers.trainers["trainer-1"].state == "ARCHIVED"
    assert [each.kind for each in ResourceLog(ended.output_dir).left()] == ["dataset", "sft_job"], "a resume may want these"


def test_a_run_that_is_deleted_with_its_sweep_is_reaped_too(
    server: FireworksServer, ended: TrainingRun, alice: User, project: Project
) -> None:
    sweep = Sweep.objects.create(project=project, created_by=alice, name="Rates")
    SweepRun.objects.create(sweep=sweep, run=ended, combination=0, seed=0)
    delete_sweep(user=alice, sweep=sweep)
    assert not TrainingRun.objects.exists() and "2 things were removed" in reaped()
    assert server.jobs["job-1"].ended == "CANCELLED" and not ended.output_dir.exists()


def test_a_deleted_run_is_reaped_from_what_its_folder_keeps(server: FireworksServer, ended: TrainingRun, alice: User) -> None:
    folder = ended.output_dir
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "checkpoints").mkdir()
    delete_run(user=alice, run=ended)
    assert {path.name for path in folder.iterdir()} == {RESOURCES_FILE, "remote_owner.json"}
    assert KEY not in (folder / "remote_owner.json").read_text()
    tidy_up()
    assert not server.datasets and not folder.exists()


def test_a_deleted_run_that_left_nothing_leaves_no_folder(ended: TrainingRun, alice: User, server: FireworksServer) -> None:
    folder = ended.output_dir
    reaped()
    delete_run(user=alice, run=ended)
    assert not folder.exists()


def test_what_cannot_be_removed_is_said_and_tried_again(server: FireworksServer, ended: TrainingRun, project: Project) -> None:
    project.credentials.all().delete()
    with pytest.raises(CommandError, match="2 things are still there"):
        reaped()
    store_credential(user=project.memberships.first().user, project=project, name="fireworks", secret=KEY)
    assert "2 things were removed" in reaped()


def test_what_is_gone_already_is_gone(server: FireworksServer, ended: TrainingRun) -> None:
    server.datasets.clear()
    server.jobs.clear()
    assert "2 things were removed" in reaped()


def test_a_key_of_another_account_removes_nothing_and_calls_nothing_gone(
    server: FireworksServer, ended: TrainingRun, caplog: pytest.LogCaptureFixture
) -> None:
    server.accounts = ["other"]
    with pytest.raises(CommandError, match="2 things are still there"):
        reaped()
    tidy_up()
    assert "lies in the account acme" in caplog.text and "leads to other now" in caplog.text
    assert {request.path for request in server.requests} == {"/v1/accounts"} and not server.jobs["job-1"].ended
    server.accounts = ["other", ACCOUNT]
    assert "2 things were removed" in reaped() and server.jobs["job-1"].ended == "CANCELLED"


def join_tidying() -> None:
    for thread in threading.enumerate():
        if thread.name == "tidy-up":
            thread.join(60)


def test_a_worker_tidies_up_when_it_starts_and_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def tidy() -> bool:
        done.append(1)
        return True

    monkeypatch.setattr(leftovers, "tidy_up", tidy)
    tidying = Tidying()
    for seconds, expected in ((600.0, 1), (600.0, 1), (0.0, 2)):
        monkeypatch.setattr(leftovers, "TIDY_SECONDS", seconds)
        tidying("worker")
        join_tidying()
        assert len(done) == expected


def test_a_look_that_met_no_database_is_taken_again_by_the_next_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look() -> Iterator[Leftover]:
        looks.append(1)
        if len(looks) == 1:
            raise OperationalError("database is locked")
        return iter(())

    monkeypatch.setattr(leftovers, "leftovers", look)
    tidying = Tidying()
    for expected in (1, 2, 2):
        tidying("worker")
        join_tidying()
        assert len(looks) == expected


@pytest.mark.parametrize("forks", [True, False])
def test_a_sweep_closes_no_pool_of_connections_while_something_is_tidied_beside_it(
    db: None, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    closed: list[int] = []
    release = threading.Event()

    def hold() -> None:
        release.wait(60)

    monkeypatch.setattr(leases, "_beside", WeakSet())
    monkeypatch.setattr(connection, "close", lambda: None)
    monkeypatch.setattr(connection, "close_pool", lambda: closed.append(1), raising=False)
    thread = leases.begin_beside(hold, name="tidy-up")
    try:
        leases._let_go(forks=forks)
        assert not closed
    finally:
        release.set()
    thread.join(60)
    leases._let_go(forks=forks)
    assert len(closed) == forks


def test_a_torn_line_announced_nothing(tmp_path: Path) -> None:
    log = ResourceLog(tmp_path)
    log.plan(Resource("dataset", "a"))
    with log.path.open("a") as file:
        file.write('{"kind": "dataset", "na')
    log.plan(Resource("sft_job", "b"))
    log.gone(Resource("dataset", "a"))
    assert log.left() == [Resource("sft_job", "b")]


@pytest.mark.parametrize("wrong", ["-1", "soon", "nan"])
def test_hours_are_a_number(wrong: str, db: None) -> None:
    with pytest.raises(CommandError, match="hours"):
        call_command("reap", f"--hours={wrong}")
