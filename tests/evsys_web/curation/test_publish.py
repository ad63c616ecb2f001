"""Publishing: rows in order, their sources, once and only once, all or nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import PermissionDenied
from pytest_django import DjangoAssertNumQueries

import recipes
from evsys_web.accounts.models import Project, User
from evsys_web.curation import actions
from evsys_web.curation.actions import Published, delete_filter, publish, save_filter
from evsys_web.curation.models import CuratedRow, Curation, Filter
from evsys_web.datasets.actions import delete_version
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.evals.actions import delete_eval
from evsys_web.evals.models import EvalRun, Status
from recipes.config import RunConfig
from recipes.curation import CurationSettings
from recipes.errors import ConfigError, DataError
from tests.evsys_web.curation.conftest import MakeRun

BAND_FILTER = CurationSettings(filter="0 < avg < 1")


def stored_files() -> list[Path]:
    return [path for path in (Path(django_settings.HOME) / "files").rglob("*") if path.is_file()]


def test_rows_hold_the_whole_conversation_and_where_it_comes_from(published: Published, run: EvalRun) -> None:
    rows = list(published.version.read_rows())
    assert [(row["metadata"]["task_id"], row["metadata"]["attempt"]) for row in rows] == [
        ("seldom", 1),
        ("often", 0),
        ("often", 1),
        ("often", 3),
    ]
    assert rows[0]["messages"][-1] == {"role": "assistant", "content": "Right 1", "reasoning": "Let me think."}
    assert rows[0]["metadata"] == {
        "eval_run": run.pk,
        "task_id": "seldom",
        "attempt": 1,
        "score": 1.0,
        "benchmark": "Sums",
        "model": "starter",
    }


def test_a_curation_keeps_what_made_it(published: Published, run: EvalRun, alice: User) -> None:
    curation = published.curation
    assert (curation.filter_text, curation.created_by, curation.dataset_reference) == ("0 < avg < 1", alice, "band@1")
    assert list(curation.eval_runs.all()) == [run]
    assert curation.sources[0]["model"] == "starter" and curation.counts["num_kept"] == 2
    assert [(row.position, row.split, row.attempt.attempt) for row in CuratedRow.objects.select_related("attempt")] == [
        (0, "train", 1),
        (1, "train", 0),
        (2, "train", 1),
        (3, "train", 3),
    ]


def test_twice_gives_the_same_version_and_the_same_curation(published: Published, run: EvalRun, alice: User) -> None:
    again = publish(user=alice, project=run.project, eval_runs=[run, run], settings=BAND_FILTER, name="band")
    assert (again.curation, again.version, again.created) == (published.curation, published.version, False)
    assert CuratedRow.objects.count() == 4 and DatasetVersion.objects.count() == 1


def test_another_filter_that_keeps_the_same_rows_is_another_curation_of_the_same_version(
    published: Published, run: EvalRun, alice: User
) -> None:
    other = CurationSettings(filter="solved and not worst == 1")
    again = publish(user=alice, project=run.project, eval_runs=[run], settings=other, name="band")
    assert again.version == published.version and again.curation != published.curation
    assert CuratedRow.objects.count() == 4


def test_held_out_tasks_are_a_split_of_their_own(make_run: MakeRun, alice: User) -> None:
    run = make_run({f"task-{n}": [0, 1] for n in range(40)})
    settings = CurationSettings(filter="solved", val_fraction=0.25)
    version = publish(user=alice, project=run.project, eval_runs=[run], settings=settings, name="split").version
    names = [split["name"] for split in version.splits]
    assert names == ["train", "validation"] and sum(split["num_rows"] for split in version.splits) == 40
    held_out = {row["metadata"]["task_id"] for row in version.read_rows("validation")}
    sides = CuratedRow.objects.filter(version=version, split="validation").values_list("task__task_id", flat=True)
    assert held_out == set(sides) and 0 < len(held_out) < 40


def test_runs_of_one_benchmark_are_pooled_by_task(make_run: MakeRun, alice: User) -> None:
    first, second = make_run({"one": [0, 0], "two": [1, 1]}), make_run({"one": [1, 0], "two": [1, 1]}, model_label="other")
    found = publish(user=alice, project=first.project, eval_runs=[first, second], settings=BAND_FILTER, name="pooled")
    assert [row["metadata"] for row in found.version.read_rows()] == [
        {"eval_run": second.pk, "task_id": "one", "attempt": 0, "score": 1.0, "benchmark": "Sums", "model": "other"}
    ]


def test_imports_without_a_benchmark_are_pooled_only_where_their_prompts_agree(make_run: MakeRun, alice: User) -> None:
    first, second = make_run({"0": [0, 0]}, benchmark=None), make_run({"0": [1, 1]}, benchmark=None)
    second.tasks.update(prompt="Something else")
    settings = CurationSettings(filter="avg == 1")
    found = publish(user=alice, project=first.project, eval_runs=[first, second], settings=settings, name="apart")
    assert found.version.num_rows == 2


def test_conversations_that_cannot_be_rows_are_counted_with_the_reason(make_run: MakeRun, alice: User) -> None:
    run = make_run({"good": [1, 1], "bad": [1]})
    run.attempts.filter(task__task_id="bad").update(messages=[{"role": "user", "content": "?"}])
    found = publish(user=alice, project=run.project, eval_runs=[run], settings=CurationSettings(), name="usable")
    assert found.version.num_rows == 2
    assert found.curation.counts["skipped"] == {"no assistant turn": 1}


@pytest.mark.parametrize(
    ("settings", "name", "sentence"),
    [
        (CurationSettings(filter="avg > 2"), "none", "no attempt passes"),
        (CurationSettings(filter="n == 4"), "../../etc", "Begin with a letter"),
        (CurationSettings(filter="n == 4"), "", "Name of the dataset"),
        (CurationSettings(metric="elegance"), "metric", "No attempt has the metric"),
        (CurationSettings(filter="avg == 1", val_fraction=0.5), "sides", "leaves the"),
    ],
)
def test_what_cannot_be_published_is_refused_and_leaves_nothing(
    run: EvalRun, alice: User, settings: CurationSettings, name: str, sentence: str
) -> None:
    files = stored_files()
    with pytest.raises((ConfigError, DataError), match=sentence):
        publish(user=alice, project=run.project, eval_runs=[run], settings=settings, name=name)
    assert not Dataset.objects.exists() and not Curation.objects.exists() and stored_files() == files


@pytest.mark.fault("An error at the last row of a publish", "Nothing is published, nothing is left behind.")
def test_a_failure_at_the_last_row_leaves_nothing(run: EvalRun, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    files = stored_files()
    write = actions._Publication._write_sources

    def fail(publication: actions._Publication, version: DatasetVersion) -> None:
        write(publication, version)
        raise MemoryError

    monkeypatch.setattr(actions._Publication, "_write_sources", fail)
    with pytest.raises(MemoryError):
        publish(user=alice, project=run.project, eval_runs=[run], settings=BAND_FILTER, name="half")
    assert not Dataset.objects.exists() and not Curation.objects.exists() and not CuratedRow.objects.exists()
    assert stored_files() == files


def test_an_attempt_that_vanishes_meanwhile_is_said(run: EvalRun, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = actions.open_sources([run])
    monkeypatch.setattr(actions, "open_sources", lambda runs: sources)
    run.attempts.filter(task__task_id="often").delete()
    with pytest.raises(DataError, match="deleted meanwhile"):
        publish(user=alice, project=run.project, eval_runs=[run], settings=BAND_FILTER, name="gone")
    assert not Dataset.objects.exists()


def test_a_stranger_and_a_foreign_eval_are_refused(run: EvalRun, mallory: User, alice: User) -> None:
    with pytest.raises(PermissionDenied):
        publish(user=mallory, project=run.project, eval_runs=[run], settings=BAND_FILTER, name="mine")
    hers = Project.objects.create_for(mallory, name="Hers")
    with pytest.raises(ConfigError, match="of this project"):
        publish(user=mallory, project=hers, eval_runs=[run], settings=BAND_FILTER, name="mine")
    with pytest.raises(ConfigError, match="of this project"):
        publish(user=alice, project=run.project, eval_runs=[], settings=BAND_FILTER, name="none")


def test_a_run_that_goes_on_is_read_on(make_run: MakeRun, alice: User) -> None:
    run = make_run({"one": [0, None]}, status=Status.RUNNING, is_imported=False)
    assert actions.open_sources([run]).pool.aggregates().n_correct.tolist() == [0]
    task = run.tasks.get()
    run.attempts.filter(attempt=1).update(error="", error_kind="", is_correct=True, reward=1.0, signals={"length": 0.5})
    run.tasks.filter(pk=task.pk).update(n=2, num_correct=1, seq=run.last_seq + 1)
    EvalRun.objects.filter(pk=run.pk).update(last_seq=run.last_seq + 1)
    run.refresh_from_db()
    pool = actions.open_sources([run]).pool
    assert (pool.aggregates().n.tolist(), pool.aggregates().n_correct.tolist()) == ([2], [1])
    assert pool.signals["length"].tolist() == [1.0, 0.5]


def test_the_columns_of_a_large_run_come_from_a_file(
    run: EvalRun, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    from evsys_web.curation import columns

    monkeypatch.setattr(columns, "FILE_FROM", 1)
    first = columns.columns_of(run)
    columns.forget_columns()
    with django_assert_num_queries(0):
        again = columns.columns_of(run)
    assert again.task_ids == first.task_ids and (again.digest == first.digest).all()
    path = columns._path(run)
    path.write_bytes(path.read_bytes()[:100])
    columns.forget_columns()
    assert columns.columns_of(run).task_ids == first.task_ids


def test_what_is_deleted_leaves_the_record_standing(published: Published, run: EvalRun, alice: User) -> None:
    delete_eval(user=alice, run=run)
    curation = Curation.objects.get()
    assert curation.sources[0]["name"] == "sums" and not curation.eval_runs.exists()
    assert {row.attempt for row in CuratedRow.objects.select_related("attempt")} == {None}
    assert json.loads(json.dumps(next(published.version.read_rows())))["metadata"]["task_id"] == "seldom"
    delete_version(user=alice, version=published.version)
    assert not CuratedRow.objects.exists()
    assert Curation.objects.get().dataset_reference == "band@1"


def test_filters_are_kept_under_a_name(run: EvalRun, alice: User, bob: User, mallory: User) -> None:
    saved = save_filter(user=alice, project=run.project, name=" band ", settings=BAND_FILTER)
    again = save_filter(user=bob, project=run.project, name="band", settings=CurationSettings(filter="solved"))
    assert again == saved and Filter.objects.get().text == "solved"
    with pytest.raises(ConfigError, match="name"):
        save_filter(user=alice, project=run.project, name="  ", settings=BAND_FILTER)
    with pytest.raises(PermissionDenied):
        delete_filter(user=mallory, saved=saved)
    delete_filter(user=alice, saved=saved)
    assert not Filter.objects.exists()


MIXED = {"never": [0, 0, 0, 0], "once": [0, 1, 0, 0], "often": [1, 1, 0, None], "always": [1, 1, 1, 1]}
PAIRS = CurationSettings(filter="0 < avg < 1", rows="pairs", max_pairs=2)


def test_pairs_become_a_preference_version_whose_rows_name_both_attempts(
    alice: User, project: Project, make_run: MakeRun
) -> None:
    run = make_run(MIXED)
    found = publish(user=alice, project=project, eval_runs=[run], settings=PAIRS, name="pairs")
    assert found.version.format == "preference" and found.curation.counts["num_rows"] == 4
    rows = list(found.version.read_rows())
    told = [(row["metadata"]["task_id"], row["metadata"]["attempt"], row["metadata"]["rejected_attempt"]) for row in rows]
    assert told == [("once", 1, 0), ("once", 1, 2), ("often", 0, 2), ("often", 1, 2)]
    assert rows[0]["prompt"] == [{"role": "user", "content": "What is once?"}]
    assert rows[0]["chosen"][0]["content"] == "Right 1" and rows[0]["rejected"][0]["content"] == "Wrong 0"
    assert rows[0]["metadata"] == {
        "eval_run": run.pk,
        "task_id": "once",
        "attempt": 1,
        "score": 1.0,
        "benchmark": "Sums",
        "model": "starter",
        "rejected_eval_run": run.pk,
        "rejected_attempt": 0,
        "rejected_score": 0.0,
    }
    sources = CuratedRow.objects.filter(version=found.version).select_related("attempt").order_by("position", "side")
    assert [(row.position, row.side, row.attempt.attempt, row.score) for row in sources][:4] == [
        (0, "chosen", 1, 1.0),
        (0, "rejected", 0, 0.0),
        (1, "chosen", 1, 1.0),
        (1, "rejected", 2, 0.0),
    ]
    again = publish(user=alice, project=project, eval_runs=[run], settings=PAIRS, name="pairs")
    assert not again.created and again.curation == found.curation


def test_pairs_of_two_evals_name_the_eval_of_either_side(alice: User, project: Project, make_run: MakeRun) -> None:
    right, wrong = make_run({"sum": [1]}, name="right"), make_run({"sum": [0]}, name="wrong")
    found = publish(user=alice, project=project, eval_runs=[right, wrong], settings=PAIRS, name="pairs")
    (row,) = found.version.read_rows()
    assert (row["metadata"]["eval_run"], row["metadata"]["rejected_eval_run"]) == (right.pk, wrong.pk)
    assert [(source.side, source.eval_run_id) for source in CuratedRow.objects.order_by("side")] == [
        ("chosen", right.pk),
        ("rejected", wrong.pk),
    ]


def test_pairs_are_held_out_by_task_and_train_dpo(alice: User, project: Project, make_run: MakeRun) -> None:
    run = make_run({f"t{number}": [0, 1] for number in range(20)})
    settings = PAIRS.model_copy(update={"val_fraction": 0.3})
    version = publish(user=alice, project=project, eval_runs=[run], settings=settings, name="pairs").version
    splits = {each["name"]: each["num_rows"] for each in version.splits}
    assert splits["train"] + splits["validation"] == 20 and splits["validation"] > 0
    config = RunConfig.from_values(
        {
            "data": {"dataset": version.reference},
            "algorithm": {"kind": "dpo", "params": {"batch_size": 8, "max_steps": 2, "learning_rate": 0.02}},
            "backend": {"kind": "mock"},
        }
    )
    result = recipes.train(
        config,
        run_id="1",
        output_dir=Path(django_settings.HOME) / "dpo",
        rows=list(version.read_rows("train")),
        validation_rows=list(version.read_rows("validation")),
    )
    assert result.status == "completed" and "eval/validation_accuracy" in result.metrics


def test_attempts_without_two_sides_publish_nothing_and_say_why(alice: User, project: Project, make_run: MakeRun) -> None:
    run = make_run({"never": [0, 0], "always": [1, 1]})
    settings = CurationSettings(filter="true", rows="pairs")
    with pytest.raises(ConfigError, match="no kept task has a reply that passes and another one that does not"):
        publish(user=alice, project=project, eval_runs=[run], settings=settings, name="pairs")
    assert not DatasetVersion.objects.exists()


def test_a_curation_that_was_published_before_there_were_pairs_is_found_again(published: Published, run: EvalRun) -> None:
    values = published.curation.settings
    plain = {name: value for name, value in values.items() if name not in ("rows", "max_pairs")}
    told_apart_by = json.dumps([plain, [str(run.pk)]], sort_keys=True)
    assert published.curation.fingerprint == hashlib.sha256(told_apart_by.encode()).hexdigest()
