"""Curation through the API: preview, publish, filters, lineage."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.curation.actions import Published
from evsys_web.curation.models import Curation, Filter
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalRun, Status
from evsys_web.runs.models import Checkpoint, TrainingRun
from evsys_web.runs.models import Status as RunStatus
from tests.evsys_web.curation.conftest import MakeRun

BAND = {"filter": "0 < avg < 1"}


def post(client: Client, path: str, body: Any, headers: dict[str, str], **more: str) -> tuple[int, Any]:
    answer = client.post(f"/api/v1/{path}", body, content_type="application/json", headers={**headers, **more})
    return answer.status_code, answer.json() if answer.content else None


def get(client: Client, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    answer = client.get(f"/api/v1/{path}", headers=headers)
    return answer.status_code, answer.json()


def test_a_token_that_may_only_read_previews_nothing(client: Client, run: EvalRun, read_only_headers: dict[str, str]) -> None:
    assert post(client, "curations/preview", {"eval_runs": [run.pk], "settings": BAND}, read_only_headers)[0] == 403


def test_a_preview_gives_counts_histogram_and_samples_and_stores_nothing(
    client: Client, run: EvalRun, alice_headers: dict[str, str]
) -> None:
    status, found = post(client, "curations/preview", {"eval_runs": [run.pk], "settings": BAND}, alice_headers)
    assert status == 200 and found["counts"]["num_kept"] == 2 and found["counts"]["num_rows"] == 4
    assert [each["task_id"] for each in found["inside"]] == ["seldom", "often"]
    assert found["outside"][0]["reason"] == "0 < avg fails: avg is 0"
    assert sum(each["num_tasks"] for each in found["histogram"]) == 4
    assert found["metrics"] == ["is_correct", "reward", "length"]
    assert not Curation.objects.exists()


def test_publishing_is_idempotent(client: Client, run: EvalRun, alice_headers: dict[str, str]) -> None:
    body = {"eval_runs": [run.pk], "settings": BAND, "name": "band"}
    first = post(client, "curations", body, alice_headers, **{"Idempotency-Key": "once"})
    assert first == post(client, "curations", body, alice_headers, **{"Idempotency-Key": "once"})
    assert first[0] == 201 and first[1]["created"]
    status, again = post(client, "curations", body, alice_headers)
    assert status == 200 and not again["created"] and again["curation"] == first[1]["curation"]
    assert again["curation"]["dataset"] == "band@1" and again["curation"]["created_by"] == "alice"
    assert get(client, f"curations/{again['curation']['id']}", alice_headers) == (200, again["curation"])
    assert get(client, "curations", alice_headers)[1]["items"] == [again["curation"]]


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"filter": "avg <"}, "settings.filter", "Character 6"),
        ({"filter": ""}, "settings.filter", "empty"),
        ({"filter": "(" * 2001}, "settings.filter", "2000"),
        ({"filter": "import os"}, "settings.filter", "import"),
        ({"filter": 3}, "settings.filter", "string"),
        ({"select": "worst"}, "settings.select", "correct"),
        ({"val_fraction": 1}, "settings.val_fraction", "less than 1"),
        ({"metric": "elegance"}, "metric", "No attempt has the metric"),
        ({"filter": "avg > 2"}, "filter", "no attempt passes"),
        ({"filter": "avg == 1", "val_fraction": 0.5}, "val_fraction", "split empty"),
        ({"speed": 1}, "settings.speed", "no setting of this name"),
    ],
)
def test_settings_are_refused_by_their_field(
    client: Client, run: EvalRun, alice_headers: dict[str, str], settings: dict[str, Any], field: str, words: str
) -> None:
    body = {"eval_runs": [run.pk], "settings": settings, "name": "band"}
    status, problem = post(client, "curations", body, alice_headers)
    assert status == 422 and words in problem["errors"][0]["message"], problem
    assert problem["errors"][0]["field"] == field
    assert not Curation.objects.exists()


def test_the_splits_of_the_version_are_called_as_asked(client: Client, run: EvalRun, alice_headers: dict[str, str]) -> None:
    body = {"eval_runs": [run.pk], "settings": BAND | {"val_fraction": 0.5, "seed": 5}, "name": "band"}
    for split, field in (("../x", "split"), ("test", "val_split")):
        status, problem = post(client, "curations", body | {"split": split, "val_split": "test"}, alice_headers)
        assert (status, problem["errors"][0]["field"]) == (422, field)
    status, made = post(client, "curations", body | {"split": "few", "val_split": "test"}, alice_headers)
    version = DatasetVersion.objects.get(pk=made["curation"]["dataset_version_id"])
    assert status == 201 and [each["name"] for each in version.splits] == ["few", "test"]


def test_evals_without_verdicts_or_of_two_projects_are_refused(
    client: Client, make_run: MakeRun, run: EvalRun, alice: User, alice_headers: dict[str, str]
) -> None:
    queued = make_run({}, status=Status.QUEUED)
    status, problem = post(client, "curations/preview", {"eval_runs": [run.pk, queued.pk]}, alice_headers)
    assert status == 422 and problem["errors"][0]["field"] == "eval_runs[1]"
    other = make_run(project=Project.objects.create_for(alice, name="Other"), benchmark=None)
    status, problem = post(client, "curations/preview", {"eval_runs": [run.pk, other.pk]}, alice_headers)
    assert status == 422 and "one project" in problem["detail"]
    assert post(client, "curations/preview", {"eval_runs": []}, alice_headers)[0] == 422


def test_filters_are_kept_listed_and_deleted(client: Client, run: EvalRun, alice_headers: dict[str, str]) -> None:
    status, saved = post(client, "filters", {"name": "band", "settings": BAND}, alice_headers)
    assert status == 201 and saved["settings"]["filter"] == "0 < avg < 1"
    assert get(client, f"filters/{saved['id']}", alice_headers) == (200, saved)
    assert get(client, "filters", alice_headers)[1]["items"] == [saved]
    assert post(client, "filters", {"name": "bad", "settings": {"filter": "("}}, alice_headers)[0] == 422
    assert client.delete(f"/api/v1/filters/{saved['id']}", headers=alice_headers).status_code == 204
    assert not Filter.objects.exists()


def test_a_row_knows_its_attempt(client: Client, published: Published, run: EvalRun, alice_headers: dict[str, str]) -> None:
    status, found = get(client, f"datasets/versions/{published.version.pk}/rows/1/lineage", alice_headers)
    assert status == 200
    assert found == {
        "row": 1,
        "split": "train",
        "eval_run_id": run.pk,
        "model": "starter",
        "checkpoint_id": None,
        "task_position": 3,
        "task_id": "often",
        "attempt": 0,
        "score": 1.0,
        "rejected": None,
    }
    assert get(client, f"datasets/versions/{published.version.pk}/rows/99/lineage", alice_headers)[0] == 404


def test_an_attempt_knows_what_learned_from_it(
    client: Client, published: Published, run: EvalRun, project: Project, alice_headers: dict[str, str]
) -> None:
    trained = TrainingRun.objects.create(
        project=project, name="run", status=RunStatus.COMPLETED, dataset_version=published.version
    )
    saved = Checkpoint.objects.create(run=trained, name="step-7", step=7, seq=1)
    for name, split in (("of this split", "train"), ("of another", "validation")):
        config = {"data": {"split": split}}
        TrainingRun.objects.create(project=project, name=name, dataset_version=published.version, config=config)
    status, found = get(client, f"evals/{run.pk}/tasks/3/attempts/0/lineage", alice_headers)
    assert status == 200 and (found["task_id"], found["model"]) == ("often", "starter")
    learned = found["datasets"][0]["runs"]
    assert [each["name"] for each in learned] == ["of this split", "run"]
    del learned[0]
    assert found["datasets"] == [
        {
            "dataset": "band@1",
            "dataset_version_id": published.version.pk,
            "row": 1,
            "split": "train",
            "side": "",
            "score": 1.0,
            "curation_id": published.curation.pk,
            "runs": [
                {
                    "run_id": trained.pk,
                    "name": "run",
                    "status": "completed",
                    "went_on_from_run_id": None,
                    "checkpoints": [{"id": saved.pk, "step": 7, "name": "step-7"}],
                }
            ],
        }
    ]
    assert get(client, f"evals/{run.pk}/tasks/3/attempts/2/lineage", alice_headers)[1]["datasets"] == []
    assert get(client, f"evals/{run.pk}/tasks/3/attempts/9/lineage", alice_headers)[0] == 404


def test_a_stranger_finds_nothing(client: Client, published: Published, run: EvalRun, mallory_headers: dict[str, str]) -> None:
    body = {"eval_runs": [run.pk], "settings": BAND, "name": "mine"}
    assert post(client, "curations", body, mallory_headers)[0] == 404
    assert post(client, "curations/preview", {"eval_runs": [run.pk]}, mallory_headers)[0] == 404
    assert post(client, "filters", {"name": "x", "project": run.project_id}, mallory_headers)[0] == 404
    assert get(client, "curations", mallory_headers)[1]["items"] == []
    for path in (
        f"curations/{published.curation.pk}",
        f"evals/{run.pk}/tasks/3/attempts/0/lineage",
        f"datasets/versions/{published.version.pk}/rows/0/lineage",
    ):
        assert get(client, path, mallory_headers)[0] == 404


def test_pairs_are_previewed_published_and_traced_to_both_attempts(
    client: Client, run: EvalRun, alice_headers: dict[str, str], mallory_headers: dict[str, str]
) -> None:
    asked = {"eval_runs": [run.pk], "settings": BAND | {"rows": "pairs", "max_pairs": 2}}
    status, found = post(client, "curations/preview", asked, alice_headers)
    assert status == 200 and found["counts"]["num_rows"] == 4 and found["counts"]["num_over_cap"] == 2
    first = found["pairs"][0]
    assert (first["task_id"], first["chosen"]["attempt"], first["rejected"]["attempt"]) == ("seldom", 1, 0)
    assert (first["chosen"]["text"], first["rejected"]["text"]) == ("Right 1", "Wrong 0")
    status, made = post(client, "curations", asked | {"name": "pairs"}, alice_headers)
    version = made["curation"]["dataset_version_id"]
    assert status == 201 and DatasetVersion.objects.get(pk=version).format == "preference"
    status, row = get(client, f"datasets/versions/{version}/rows/0/lineage", alice_headers)
    assert (row["attempt"], row["rejected"]["attempt"], row["rejected"]["score"]) == (1, 0, 0.0)
    status, attempt = get(client, f"evals/{run.pk}/tasks/2/attempts/0/lineage", alice_headers)
    assert [(place["row"], place["side"]) for place in attempt["datasets"]] == [(0, "rejected")]
    assert post(client, "curations/preview", asked, mallory_headers)[0] == 404
    everything = asked | {"settings": {"rows": "pairs", "select": "all"}}
    status, refused = post(client, "curations/preview", everything, alice_headers)
    assert status == 422 and "pairs need attempts that pass on one side" in str(refused)
