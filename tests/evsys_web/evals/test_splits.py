"""A benchmark of one split of its tasks: chosen in a config, in the form, through the API."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import publish_splits
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.actions import benchmark_of, launch_eval
from evsys_web.evals.forms import ChoicesForm
from evsys_web.evals.models import Benchmark
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.rows import RowFormat

VERIFIER = {"kind": "exact_match"}


@pytest.fixture
def tasks(alice: User, project: Project) -> DatasetVersion:
    """halves@1: three tasks to learn, two to judge by."""
    rows = [{"task_id": f"t{number}", "prompt": f"{number} + 0?", "answer": str(number)} for number in range(5)]
    splits: dict[str, Any] = {"train": rows[:3], "test": rows[3:]}
    return publish_splits(user=alice, project=project, name="halves", splits=splits, row_format=RowFormat.TASK).version


def test_each_split_is_a_benchmark_of_its_own(alice: User, project: Project, tasks: DatasetVersion) -> None:
    def made(split: str | None) -> Benchmark:
        return benchmark_of(user=alice, project=project, dataset_version=tasks, verifier=VERIFIER, split=split)

    whole, test = made(None), made("test")
    assert (whole.num_tasks, test.num_tasks, test.name) == (5, 2, "halves@1 test exact match")
    assert made("test") == test and made(None) == whole and whole != test
    config = EvalConfig.from_values({"model": {}, "data": {"dataset": "anything"}})
    run = launch_eval(user=alice, project=project, config=config, benchmark=test)
    assert run.load_config().data.split == "test" and run.num_tasks == 2
    assert [task.task_id for task in run.read_tasks()] == ["t3", "t4"]
    assert len(list(launch_eval(user=alice, project=project, config=config, benchmark=whole).read_tasks())) == 5


def test_a_split_that_is_not_there_is_refused_with_those_that_are(alice: User, project: Project, tasks: DatasetVersion) -> None:
    with pytest.raises(ConfigError, match="no split 'dev'. It has train, test"):
        benchmark_of(user=alice, project=project, dataset_version=tasks, verifier=VERIFIER, split="dev")
    assert not Benchmark.objects.exists()


def test_the_api_and_the_form_take_a_split(
    alice: User, alice_client: Client, alice_headers: dict[str, str], tasks: DatasetVersion
) -> None:
    form = ChoicesForm(alice, initial={"dataset_version": tasks.pk})
    assert dict(form.fields["split"].choices) == {"": "all tasks", "train": "train (3 rows)", "test": "test (2 rows)"}  # type: ignore[attr-defined]
    assert "split" not in ChoicesForm(alice).fields
    body = {"name": "b", "dataset": "halves", "split": "test", "verifier": VERIFIER}
    made = alice_client.post("/api/v1/benchmarks", body, content_type="application/json", headers=alice_headers).json()
    assert (made["split"], made["num_tasks"]) == ("test", 2)
    body = {"model": {}, "data": {"dataset": "halves", "split": "train"}, "verifier": VERIFIER}
    sent = alice_client.post("/api/v1/evals", body, content_type="application/json", headers=alice_headers)
    assert sent.status_code == 201, sent.content
    assert sent.json()["num_tasks"] == 3 and sent.json()["config"]["data"]["split"] == "train"
    body["data"]["split"] = "dev"  # type: ignore[index]
    refused = alice_client.post("/api/v1/evals", body, content_type="application/json", headers=alice_headers)
    assert refused.status_code == 422 and "It has train, test" in refused.content.decode()
    assert "of the split" in alice_client.get(f"/evals/benchmarks/{made['id']}/").content.decode()
