"""`manage.py curate`, from eval runs to a dataset version."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from evsys_web.accounts.models import User
from evsys_web.curation.models import CuratedRow, Curation
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.evals.models import EvalRun
from tests.evsys_web.curation.conftest import MakeRun

pytestmark = pytest.mark.django_db(transaction=True)


def curate(*words: Any, user: str = "alice") -> str:
    out = io.StringIO()
    call_command("curate", *map(str, words), "--user", user, stdout=out)
    return out.getvalue()


def test_it_publishes_what_the_workbench_would_and_the_same_again(run: EvalRun) -> None:
    asked = (run.pk, run.pk, "--filter", "0 < avg < 1", "--name", "band", "--json")
    found, again = json.loads(curate(*asked)), json.loads(curate(*asked))
    assert (found["dataset"], found["created"], found["counts"]["num_rows"]) == ("band@1", True, 4)
    assert again | {"created": True} == found and not again["created"]
    assert found["eval_runs"] == [run.pk] and Curation.objects.get().pk == found["curation_id"]
    version = DatasetVersion.objects.get(pk=found["dataset_version_id"])
    assert [row["metadata"]["task_id"] for row in version.read_rows()] == ["seldom", "often", "often", "often"]


def test_a_dry_run_prints_the_same_numbers_and_writes_nothing(run: EvalRun) -> None:
    asked = (run.pk, "--filter", "0 < avg < 1", "--max-per-task", "2", "--select", "best-n", "--dedup")
    dry = json.loads(curate(*asked, "--dry-run", "--json"))
    assert not Dataset.objects.exists() and not Curation.objects.exists()
    published = json.loads(curate(*asked, "--name", "band", "--json"))
    made = {"dataset", "dataset_version_id", "curation_id", "created"}
    assert {key: value for key, value in dry.items() if key not in made} == {
        key: value for key, value in published.items() if key not in made
    }
    assert dry["dataset"] is None and dry["counts"]["num_over_cap"] == 1


def test_rows_to_learn_from_may_be_called_validation_where_nothing_is_held_out(run: EvalRun) -> None:
    assert "validation" in curate(run.pk, "--split", "validation", "--dry-run")


def test_its_splits_are_called_as_asked_as_with_rllm(run: EvalRun) -> None:
    named = ("--split", "easy.first", "--val-split", "test", "--val-fraction", "0.5", "--seed", "5")
    panel = curate(run.pk, "--filter", "0 < avg < 1", "--name", "band", *named)
    version = DatasetVersion.objects.get()
    assert [split["name"] for split in version.splits] == ["easy.first", "test"] and "Splits     easy.first" in panel
    assert set(CuratedRow.objects.filter(version=version).values_list("split", flat=True)) == {"easy.first", "test"}


def test_people_get_a_panel(run: EvalRun) -> None:
    panel = curate(run.pk, "--filter", "0 < avg < 1", "--val-fraction", "0.5", "--seed", "5", "--name", "band")
    assert "4: 2 kept, 2 dropped, 0 without attempts that count" in panel
    assert "Rows       4, 20 sampled tokens" in panel and "Published band@1, 4 rows." in panel
    bars = {line.split()[0]: line.split("░")[-1].split("█")[-1].strip() for line in panel.splitlines() if "(" in line[-4:]}
    assert bars == {"0": "1 (0)", "0.25–0.3": "1 (1)", "0.75–0.8": "1 (1)", "1": "1 (0)"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--filter", "avg > foo"), "--filter: Character 7: found the unknown name foo.*\n  avg > foo\n        \\^\\^\\^$"),
        (("--filter", "avg > 5"), "Nothing to publish: no attempt passes"),
        (("--filter", "avg > 5", "--dry-run"), "Nothing to publish: no attempt passes"),
        (("--val-fraction", "1e-9", "--dry-run"), "leaves the validation split empty"),
        (("--val-fraction", "1e-9"), "leaves the validation split empty"),
        (("--max-per-task", "few"), "max_per_task: .*valid integer.*few"),
        (("--select", "best-n"), "best-n needs max_per_task"),
        (("--metric", "lenght"), "No attempt has the metric 'lenght'. There are is_correct, reward, length."),
        (("--name", ""), "--name is needed"),
        (("--name", "../x"), "Begin with a letter or digit"),
        (("--split", "../x", "--dry-run"), "Split '../x': a name is made of"),
        (("--val-split", "train", "--val-fraction", "0.5", "--dry-run"), "cannot both be called train"),
        (("--val-split", "test"), "Nothing is held out that could be called test: set val_fraction"),
        (("--trajectory", "solver"), "--trajectory: An attempt here is one conversation, .*import_attempts"),
        (("--category", "math"), "--category: Datasets here have no category"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence_and_writes_nothing(run: EvalRun, words: Any, sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        curate(run.pk, "--name", "band", *words)
    assert not DatasetVersion.objects.exists() and not Curation.objects.exists()


def test_a_stranger_and_a_wrong_number_find_no_eval_run(run: EvalRun, make_run: MakeRun, mallory: User) -> None:
    for asked, user in (((run.pk,), "mallory"), ((run.pk, 10**6), "alice")):
        with pytest.raises(CommandError, match=f"{user} has no eval run {asked[-1]}"):
            curate(*asked, "--dry-run", user=user)
    with pytest.raises(CommandError, match="has no attempt with a verdict"):
        curate(run.pk, make_run({"task": [None]}).pk, "--dry-run")


def test_every_setting_is_an_option_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from recipes.curation import CurationSettings

    with pytest.raises(SystemExit):
        call_command("curate", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in CurationSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown and str(field.description)[:30] in shown
