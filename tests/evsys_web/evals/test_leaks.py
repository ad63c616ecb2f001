"""Tasks that trained the model: found through every run that its weights went through, shown, and out of every headline."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.core.files.storage import default_storage
from django.test import Client

from evsys_web.accounts.models import Membership, Project, User
from evsys_web.datasets.actions import publish_splits
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals import leaks
from evsys_web.evals.comparison import RunsCompared, say
from evsys_web.evals.leaks import find_leaks, past_of, shared_tasks, training_keys
from evsys_web.evals.models import EvalRun
from evsys_web.evals.recorder import EvalRecorder
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from recipes.evals.runner import EvalResult
from tests.evsys_web.evals.conftest import MakeEval, attempt, config_values, task_rows, tasks

MakeVersion = Callable[..., DatasetVersion]
TrainOn = Callable[..., Checkpoint]

pytestmark = pytest.mark.django_db(transaction=True)


def chat(n: int, **metadata: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": f"what is  {n} + {n}"}, {"role": "assistant", "content": str(2 * n)}]
    return {"messages": said} | ({"metadata": metadata} if metadata else {})


@pytest.fixture
def train_on(alice: User, project: Project) -> TrainOn:
    """A checkpoint of a run that was trained on this version, and perhaps went on from another."""

    def train(version: DatasetVersion | None, begun_from: str | None = None, **values: Any) -> Checkpoint:
        config = {"model": {"name": "starter", "init_from_checkpoint": begun_from}, "data": {"dataset": "x"}}
        defaults: dict[str, Any] = {"project": project, "created_by": alice, "name": "teacher", "status": Status.COMPLETED}
        reference = version.reference if version is not None else "gone@1"
        run = TrainingRun.objects.create(
            **(defaults | {"dataset_version": version, "dataset_reference": reference, "config": config} | values)
        )
        checkpoint: Checkpoint = Checkpoint.objects.create(
            run=run, name="final", step=9, sampler_uri=str(run.output_dir / "checkpoints" / "final" / "sampler")
        )
        return checkpoint

    return train


def eval_of(make_eval: MakeEval, checkpoint: Checkpoint | None, **values: Any) -> EvalRun:
    model = {"name": "starter", "checkpoint": checkpoint.sampler_uri if checkpoint else None}
    run = make_eval(checkpoint=checkpoint, config=config_values(model=model), **values)
    return run


def recorded(run: EvalRun, right: Callable[[int], bool] = lambda task: task < 3) -> EvalRun:
    """Run by a worker, so to speak: every task tried once."""
    assert run.start("worker")
    with EvalRecorder(run) as recorder:
        recorder.begin(tasks())
        for n in range(len(tasks())):
            recorder.on_attempt(attempt(n, 0, right=right(n)))
        recorder.result = EvalResult("completed", 6, 6, 6, 0)
    run.refresh_from_db()
    return run


def test_tasks_that_trained_the_checkpoint_are_left_out_of_the_headline(
    make_eval: MakeEval, make_version: MakeVersion, train_on: TrainOn
) -> None:
    checkpoint = train_on(make_version([chat(0), chat(1), chat(77)], "lessons"))
    run = recorded(eval_of(make_eval, checkpoint, k=1))
    assert [task.task_id for task in run.tasks.filter(is_leaked=True)] == ["sum-0", "sum-1"]
    assert run.summary["num_tasks"] == 4 and run.summary["avg"]["value"] == 0.25
    assert run.summary["all"]["num_tasks"] == 6 and run.summary["all"]["avg"]["value"] == 0.5
    assert run.num_done == 6
    assert "2 of 6 tasks trained this model" in run.events.filter(level="warning").get().message


def test_every_run_that_the_weights_went_through_counts(
    make_eval: MakeEval, make_version: MakeVersion, train_on: TrainOn
) -> None:
    first = train_on(make_version([chat(0)], "first"))
    second = train_on(make_version([chat(5)], "second"), first.sampler_uri)
    found = find_leaks(eval_of(make_eval, second), tasks())
    assert found.tasks == {"sum-0", "sum-5"} and found.unknown == []
    assert [source["run"] for source in found.sources] == [second.run_id, first.run_id]


def test_a_task_is_known_by_its_name_where_its_prompt_was_rewritten(
    make_eval: MakeEval, make_version: MakeVersion, train_on: TrainOn
) -> None:
    rewritten = chat(99, benchmark="Sums", task_id="sum-4")
    elsewhere = chat(98, benchmark="Products", task_id="sum-3")
    run = eval_of(make_eval, train_on(make_version([rewritten, elsewhere], "lessons")))
    assert find_leaks(run, tasks()).tasks == {"sum-4"}


def test_only_the_rows_that_were_trained_on_count(make_eval: MakeEval, alice: User, project: Project, train_on: TrainOn) -> None:
    splits = {"train": [chat(0)], "validation": [chat(1)]}
    version = publish_splits(user=alice, project=project, name="split", splits=splits, row_format="messages").version
    assert find_leaks(eval_of(make_eval, train_on(version)), tasks()).tasks == {"sum-0"}


def test_what_cannot_be_known_is_said_once_and_nothing_is_claimed(
    make_eval: MakeEval, make_version: MakeVersion, train_on: TrainOn
) -> None:
    server = make_eval(config=config_values(endpoint={"base_url": "http://127.0.0.1:9/v1", "model": "m"}) | {"model": None})
    assert "cannot be known" in "".join(past_of(server).unknown)
    assert past_of(eval_of(make_eval, None)) == leaks.Past()  # a base model
    assert past_of(eval_of(make_eval, train_on(None), is_imported=True)) == leaks.Past()
    assert "its dataset was deleted" in "".join(past_of(eval_of(make_eval, train_on(None))).unknown)
    foreign = make_eval(config=config_values(model={"name": "starter", "checkpoint": "/elsewhere/sampler"}))
    assert "weights that are sampled from" in "".join(past_of(foreign).unknown)


def test_runs_that_begin_from_each_other_end_the_search(
    make_eval: MakeEval, make_version: MakeVersion, train_on: TrainOn
) -> None:
    checkpoint = train_on(make_version([chat(0)], "lessons"))
    TrainingRun.objects.filter(pk=checkpoint.run_id).update(
        config={"model": {"name": "starter", "init_from_checkpoint": checkpoint.sampler_uri}}
    )
    checkpoint.refresh_from_db()
    assert len(past_of(eval_of(make_eval, checkpoint)).lessons) == 1


def test_keys_are_read_from_the_rows_once_and_made_again_when_they_are_spoilt(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version([chat(n) for n in range(5)], "lessons")
    keys = training_keys(version, None)
    assert len(keys) == 5 and (np.diff(keys) > 0).all()
    with monkeypatch.context() as patched:
        patched.setattr(leaks, "_keys_of", lambda rows: pytest.fail("read again"))
        assert (training_keys(version, None) == keys).all()
    name = next(name for name in default_storage.listdir("prompts")[1] if version.content_hash in name)
    with default_storage.open(f"prompts/{name}", "wb") as file:
        file.write(b"half a fi")
    assert (training_keys(version, None) == keys).all()


def test_a_headline_of_leaked_tasks_alone_is_none(
    make_eval: MakeEval, make_version: MakeVersion, train_on: TrainOn, client: Client, alice: User
) -> None:
    run = recorded(eval_of(make_eval, train_on(make_version([chat(n) for n in range(6)], "all")), k=1))
    assert run.summary["avg"] is None and run.summary["all"]["avg"]["value"] == 0.5
    client.force_login(alice)
    page = client.get(run.get_absolute_url()).content.decode()
    assert "Every task trained this model" in page and "every task is leaked" in page
    assert client.get("/evals/").status_code == 200


def test_the_page_names_what_trained_them_to_those_who_may_see_it(
    make_eval: MakeEval, make_version: MakeVersion, train_on: TrainOn, client: Client, alice: User, mallory: User
) -> None:
    hidden = Project.objects.create(name="hidden")
    Membership.objects.create(project=hidden, user=mallory)
    secret = train_on(make_version([chat(0)], "lessons"), project=hidden, name="secret teacher")
    checkpoint = train_on(make_version([chat(50)], "more"), secret.sampler_uri)
    run = recorded(eval_of(make_eval, checkpoint, k=1))
    client.force_login(alice)
    page = client.get(run.get_absolute_url()).content.decode()
    assert "1 of 6 tasks trained this model and is left out" in page and "lessons@1" in page
    assert "a run that you cannot see" in page and "secret teacher" not in page
    shown = client.get(f"/evals/{run.pk}/tasks", {"show": "leaked"}).content.decode()
    assert "sum-0" in shown and "sum-1" not in shown and "leaked" in shown


def test_a_task_leaked_in_either_run_is_out_of_their_comparison(
    make_eval: MakeEval, make_version: MakeVersion, train_on: TrainOn, client: Client, alice: User
) -> None:
    base = recorded(eval_of(make_eval, None, k=1), right=lambda n: False)
    after = recorded(eval_of(make_eval, train_on(make_version([chat(0), chat(1)], "lessons")), k=1))
    compared = RunsCompared(base, after)
    assert compared.comparison.num_common == 4 and compared.num_leaked == 2
    assert [pair.task_id for pair in compared.newly_solved()] == ["sum-2"]
    notes = say(compared.comparison, 2).notes
    assert any(note.startswith("Left out: 2 tasks in common that trained one of the two models. Where their") for note in notes)
    client.force_login(alice)
    assert "2 tasks in common that trained" in client.get("/evals/compare", {"a": base.pk, "b": after.pk}).content.decode()
    everything = recorded(eval_of(make_eval, train_on(make_version([chat(n) for n in range(6)], "all")), k=1))
    page = client.get("/evals/compare", {"a": base.pk, "b": everything.pk}).content.decode()
    assert "Only leaked tasks in common" in page


def test_tasks_that_two_versions_share_are_found_either_way(make_version: MakeVersion) -> None:
    learn, judge = make_version([chat(1), chat(2)], "learn"), make_version(task_rows(), "judge")
    assert shared_tasks(learn, judge) == ["sum-1", "sum-2"] and shared_tasks(learn, judge, most=1) == ["sum-1"]
    assert shared_tasks(make_version([chat(50)], "other"), judge) == []
    assert shared_tasks(judge, judge) == [json.loads(json.dumps(row))["task_id"] for row in task_rows()]
