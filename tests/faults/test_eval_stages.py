"""kill -9 at every stage of an eval and of a publish: nothing lost, nothing doubled, nothing stuck."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.utils.timezone import now

from evsys_web.accounts.models import Project, User
from evsys_web.curation import actions as curating
from evsys_web.curation import rows
from evsys_web.curation.actions import publish
from evsys_web.curation.models import CuratedRow, Curation
from evsys_web.datasets import publishing
from evsys_web.datasets.models import DatasetVersion, VersionStatus
from evsys_web.evals.actions import launch_eval, resume_eval
from evsys_web.evals.models import Benchmark, EvalRun, Status
from evsys_web.evals.recorder import EvalRecorder
from evsys_web.evals.tasks import run_eval
from recipes.curation import CurationSettings
from recipes.eval_config import EvalConfig
from tests.conftest import token_headers
from tests.evsys_web.curation.conftest import BAND, add_attempts
from tests.evsys_web.evals.conftest import benchmark_row as benchmark_row
from tests.evsys_web.evals.conftest import config_values
from tests.evsys_web.evals.conftest import make_version as make_version
from tests.evsys_web.evals.conftest import version as version
from tests.faults.dying import Place, died_in, do_and_die, swept
from tests.faults.dying import short_lease as short_lease

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900), pytest.mark.usefixtures("short_lease")]

EVAL = {
    "queued: a worker reaches for it": Place(EvalRun, "start"),
    "starting: it has its lease": Place(EvalRun, "load_config"),
    "starting: the transaction of its tasks is open": Place(EvalRun, "run_begun", after=True),
    "running: the transaction of attempts is open": Place(EvalRecorder, "_write_attempts", after=True),
    "running: attempts are committed": Place(EvalRecorder, "_tidy"),
    "ending: all is done but its status": Place(EvalRun, "complete"),
}
PUBLISH = {
    "rows are being written": Place(rows, "_score", time=3),
    "rows are written, nothing is in the database": Place(publishing, "_sweep_leftovers"),
    "the file is stored, the transaction of its draft is open": Place(publishing, "_drafted", after=True),
    "the sources of its rows are written beside the draft": Place(curating, "_insert", after=True),
    "everything is in the last transaction": Place(curating._Publication, "record", after=True),
}


@pytest.mark.fault(
    "kill -9 of the worker at each stage of an eval: queued, starting, in a commit, running, ending; and again while it resumes",
    "Crashed within a lease; resumed, no attempt lost or doubled, none asked for again that has a verdict.",
    kills={"worker"},
    during={"eval"},
)
def test_an_eval_survives_a_death_at_every_stage(alice: User, benchmark_row: Benchmark) -> None:
    def resume(run: EvalRun) -> None:
        resume_eval(user=alice, run=run)

    for stage, place in EVAL.items():
        config = EvalConfig.from_values(config_values(backend={"kind": "mock"}, sampling={"max_tokens": 8}))
        run = launch_eval(user=alice, project=benchmark_row.project, config=config, benchmark=benchmark_row)
        evaluate = partial(run_eval.apply, args=[run.pk])
        do_and_die(evaluate, place)
        died_in(run, stage, {"ending": Status.RUNNING})
        kept = dict(run.attempts.values_list("pk", "created_at"))
        swept(run, stage, resume)
        do_and_die(evaluate, Place(EvalRun, "run_begun", after=True))
        swept(run, stage, resume)
        run_eval.apply(args=[run.pk], throw=True)
        run.refresh_from_db()
        assert (run.status, run.num_done, run.num_errors) == (Status.COMPLETED, 12, 0), f"{stage}: {run.error}"
        attempts = Counter(run.attempts.values_list("task__task_id", "attempt"))
        assert len(attempts) == 12 and set(attempts.values()) == {1}, stage
        assert sum(run.tasks.values_list("n", flat=True)) == 12, stage
        assert kept.items() <= dict(run.attempts.values_list("pk", "created_at")).items(), stage


@pytest.mark.fault(
    "kill -9 of the process that publishes, at each stage of it",
    "Nothing is published; asked again it is, once; what was left goes a day later.",
)
def test_a_publish_survives_a_death_at_every_stage(alice: User, project: Project) -> None:
    source = EvalRun.objects.create(project=project, created_by=alice, name="sums", status=Status.COMPLETED, k=4)
    add_attempts(source, BAND)
    curation = CurationSettings(filter="0 < avg < 1")

    def do(name: str) -> None:
        publish(user=alice, project=project, eval_runs=[source], settings=curation, name=name)

    versions = DatasetVersion.objects
    for number, (stage, place) in enumerate(PUBLISH.items(), 1):
        name = f"band {number}"
        do_and_die(partial(do, name), place)
        assert not versions.ready().filter(dataset__name=name).exists() and Curation.objects.count() == number - 1, stage
        do(name)
        version = versions.ready().get(dataset__name=name)
        assert len(list(version.read_rows())) == 4, stage
        assert (Curation.objects.count(), CuratedRow.objects.filter(version=version).count()) == (number, 4), stage
    assert versions.filter(status=VersionStatus.DRAFT).update(created_at=now() - timedelta(days=2)) == 2
    do("last")
    assert not versions.filter(status=VersionStatus.DRAFT).exists()
    assert CuratedRow.objects.count() == 4 * versions.count() == 4 * (len(PUBLISH) + 1)


@pytest.mark.fault(
    "The database breaks its connection off, as one that is killed does, at each stage of a publish",
    "Nothing is published, and the API says that the database does not answer; asked again it is, once.",
    kills={"database"},
    during={"publish"},
)
def test_a_publish_survives_a_database_that_goes_away_at_every_stage(
    alice: User, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = EvalRun.objects.create(project=project, created_by=alice, name="sums", status=Status.COMPLETED, k=4)
    add_attempts(source, BAND)
    asked = {"eval_runs": [source.pk], "name": "band", "settings": {"filter": "0 < avg < 1"}}
    headers = token_headers(alice)
    for stage, place in PUBLISH.items():
        with monkeypatch.context() as patch:
            patch.setattr(place.owner, place.name, getattr(place.owner, place.name))  # to be put back
            place.lay(lose_database)
            answer = Client(raise_request_exception=False).post("/api/v1/curations", asked, "application/json", headers=headers)
        connection.close()
        assert answer.status_code == 503, f"{stage}: {answer.content!r}"
        assert not DatasetVersion.objects.ready().filter(dataset__name="band").exists() and not Curation.objects.exists(), stage
    answer = Client().post("/api/v1/curations", asked, "application/json", headers=headers)
    assert answer.status_code == 201 and answer.json()["created"]
    assert (Curation.objects.count(), CuratedRow.objects.count()) == (1, 4)


def lose_database(*_: object) -> None:
    """The server ends the session, so that whatever comes next on it fails. A file has no server: there it fails at once."""
    if connection.vendor == "sqlite":
        raise OperationalError("disk I/O error")
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
