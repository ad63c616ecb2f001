"""kill -9 at every stage of an eval and of a publish: nothing lost, nothing doubled, nothing stuck."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.curation import actions as curating
from evsys_web.curation import rows
from evsys_web.curation.actions import publish
from evsys_web.curation.models import CuratedRow, Curation
from evsys_web.datasets import actions as datasets
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.evals.actions import launch_eval, resume_eval
from evsys_web.evals.models import Benchmark, EvalRun, Status
from evsys_web.evals.recorder import EvalRecorder
from evsys_web.evals.tasks import run_eval
from recipes.curation import CurationSettings
from recipes.eval_config import EvalConfig
from tests.evsys_web.curation.conftest import BAND, add_attempts
from tests.evsys_web.evals.conftest import benchmark_row as benchmark_row
from tests.evsys_web.evals.conftest import config_values
from tests.evsys_web.evals.conftest import make_version as make_version
from tests.evsys_web.evals.conftest import version as version
from tests.faults.dying import Place, do_and_die, swept
from tests.faults.dying import short_lease as short_lease

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300), pytest.mark.usefixtures("short_lease")]

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
    "rows are written, nothing is in the database": Place(datasets, "_publish"),
    "the file is stored, the transaction is open": Place(curating._Publication, "record"),
    "everything is in the transaction": Place(curating._Publication, "record", after=True),
}


@pytest.mark.fault(
    "kill -9 of the worker at each stage of an eval: queued, starting, in a commit, running, ending; and again while it resumes",
    "Crashed within a lease; resumed, no attempt lost or doubled, none asked for again that has a verdict.",
)
def test_an_eval_survives_a_death_at_every_stage(alice: User, benchmark_row: Benchmark) -> None:
    def resume(run: EvalRun) -> None:
        resume_eval(user=alice, run=run)

    for stage, place in EVAL.items():
        config = EvalConfig.from_values(config_values(backend={"kind": "mock"}, sampling={"max_tokens": 8}))
        run = launch_eval(user=alice, project=benchmark_row.project, config=config, benchmark=benchmark_row)
        evaluate = partial(run_eval.apply, args=[run.pk])
        do_and_die(evaluate, place)
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


@pytest.mark.fault("kill -9 of the process at each stage of a publish", "Nothing is published; asked again it is, once.")
def test_a_publish_survives_a_death_at_every_stage(alice: User, project: Project) -> None:
    source = EvalRun.objects.create(project=project, created_by=alice, name="sums", status=Status.COMPLETED, k=4)
    add_attempts(source, BAND)
    curation = CurationSettings(filter="0 < avg < 1")

    def do(name: str) -> None:
        publish(user=alice, project=project, eval_runs=[source], settings=curation, name=name)

    for number, (stage, place) in enumerate(PUBLISH.items(), 1):
        name = f"band {number}"
        do_and_die(partial(do, name), place)
        assert not Dataset.objects.filter(name=name).exists() and Curation.objects.count() == number - 1, stage
        do(name)
        version = DatasetVersion.objects.get(dataset__name=name)
        assert len(list(version.read_rows())) == 4, stage
        assert (Curation.objects.count(), CuratedRow.objects.filter(version=version).count()) == (number, 4)
