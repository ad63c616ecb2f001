"""Which rows a run learns from, and which its loss is measured on, where its dataset has splits."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import publish_splits
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import launch_run
from evsys_web.runs.estimates import estimate_run
from evsys_web.runs.forms import RunForm
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.tasks import train_run
from recipes.config import RunConfig
from recipes.errors import ConfigError
from recipes.rows import RowFormat
from tests.evsys_web.datasets.conftest import chat
from tests.evsys_web.runs.conftest import mock_config


@pytest.fixture
def split_version(alice: User, project: Project) -> DatasetVersion:
    """curated@1: train with six chats, validation with two."""
    rows = [chat(f"{number} + 1?", str(number + 1)) for number in range(8)]
    splits = {"train": rows[:6], "validation": rows[6:]}
    return publish_splits(user=alice, project=project, name="curated", splits=splits, row_format=RowFormat.MESSAGES).version


def config(split: str | None = None, kind: str = "mock_sft", **params: Any) -> RunConfig:
    values = mock_config() | {"data": {"dataset": "curated@1", "split": split}, "algorithm": {"kind": kind, "params": params}}
    return RunConfig.from_values(values)


def launched(user: User, version: DatasetVersion, chosen: RunConfig) -> TrainingRun:
    return launch_run(user=user, project=version.dataset.project, config=chosen, dataset_version=version)


def test_a_run_that_names_no_split_learns_from_train_and_is_measured_on_validation(
    alice: User, split_version: DatasetVersion
) -> None:
    run = launched(alice, split_version, config())
    assert run.config["data"] == {"path": None, "dataset": "curated@1", "split": "train"}
    assert len(run.read_rows()) == 6
    assert [row["messages"][0]["content"] for row in run.read_validation_rows() or []] == ["6 + 1?", "7 + 1?"]


def test_a_run_that_learns_from_validation_is_not_measured_on_it(alice: User, split_version: DatasetVersion) -> None:
    run = launched(alice, split_version, config("validation"))
    assert len(run.read_rows()) == 2 and run.read_validation_rows() is None


def test_a_split_that_is_not_there_is_refused_with_those_that_are(
    alice: User, project: Project, split_version: DatasetVersion, version: DatasetVersion
) -> None:
    with pytest.raises(ConfigError, match="no split 'tset'. It has train, validation") as refused:
        launched(alice, split_version, config("tset"))
    assert refused.value.path == ("data", "split")
    with pytest.raises(ConfigError, match="no split 'tset'"):
        estimate_run(config("tset"), split_version, alice)
    with pytest.raises(ConfigError, match="It has no splits"):
        launched(alice, version, config("train"))
    rows = {"left": [chat("a")], "right": [chat("b")]}
    halves = publish_splits(user=alice, project=project, name="halves", splits=rows, row_format=RowFormat.MESSAGES).version
    with pytest.raises(ConfigError, match="no split 'train'. It has left, right"):
        launched(alice, halves, config())
    assert not TrainingRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_sft_measures_its_loss_on_the_validation_split(alice: User, split_version: DatasetVersion) -> None:
    run = launched(alice, split_version, config(kind="sft", batch_size=3, validation_fraction=0.3))
    train_run.apply(args=[run.pk])
    run.refresh_from_db()
    assert run.status == Status.COMPLETED, run.error
    messages = " ".join(run.events.values_list("message", flat=True))
    assert "Training on 6 rows" in messages and "2 rows are held out" in messages
    assert "validation_fraction holds out no others" in messages


def test_the_estimate_counts_the_rows_of_the_split(alice: User, split_version: DatasetVersion) -> None:
    whole = estimate_run(config(kind="sft", batch_size=1), split_version, alice)
    part = estimate_run(config("validation", kind="sft", batch_size=1), split_version, alice)
    assert (whole.num_rows, part.num_rows) == (6, 2)
    assert whole.tokens and part.tokens and whole.tokens.low > part.tokens.low


def test_the_form_offers_the_splits_of_the_chosen_dataset(
    alice: User, alice_client: Client, split_version: DatasetVersion, version: DatasetVersion
) -> None:
    assert "split" not in RunForm(alice, start={"dataset_version": version.pk}).choices.fields
    page = alice_client.get(f"/runs/new?dataset_version={split_version.pk}").content.decode()
    assert '<option value="train" selected>train (6 rows)</option>' in page
    assert "The loss is measured on validation" in page
    sent = {"dataset_version": split_version.pk, "model_name": "starter", "algorithm": "mock_sft", "backend": "mock"}
    sent["submission_key"] = "k"
    drawn = RunForm(alice, start={**sent, "dataset_version": str(split_version.pk)})
    values = {form.add_prefix(name): text for form in drawn.settings.values() for name, text in form.texts().items()}
    response = alice_client.post("/runs/new", sent | values | {"split": "validation"})
    assert response.status_code == 302, response.content.decode()
    assert TrainingRun.objects.get().split == "validation"
    refused = alice_client.post("/runs/new", sent | values | {"split": "everything", "submission_key": "other"})
    assert refused.status_code == 200 and "Select a valid choice" in refused.content.decode()


def test_a_clone_keeps_its_split(alice: User, alice_client: Client, split_version: DatasetVersion) -> None:
    run = launched(alice, split_version, config("validation"))
    page = alice_client.get(f"/runs/new?clone={run.pk}").content.decode()
    assert '<option value="validation" selected>' in page
    assert "split: validation" in alice_client.get(f"/runs/{run.pk}/yaml").getvalue().decode()
