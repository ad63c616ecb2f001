"""`manage.py train`: the launch for scripts on the machine itself."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.runs.models import Status, TrainingRun
from recipes.config import RunConfig
from tests.evsys_web.runs.conftest import mock_config


def write(folder: Path, **changes: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(RunConfig.model_validate(mock_config(max_steps=12) | changes).to_yaml())
    return path


def call(*arguments: object) -> str:
    out = io.StringIO()
    call_command("train", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_a_run_is_queued_for_a_worker(alice: User, version: DatasetVersion, tmp_path: Path) -> None:
    assert "is queued" in call(write(tmp_path), "--user", "alice")
    assert TrainingRun.objects.get().status == Status.QUEUED


@pytest.mark.django_db(transaction=True)
def test_a_run_is_trained_here_and_printed_as_json(alice: User, version: DatasetVersion, tmp_path: Path) -> None:
    run = json.loads(call(write(tmp_path), "--user", "alice", "--here", "--json"))
    assert run["status"] == "completed" and run["step"] == 12 and run["metrics"]["train/mean_nll"]


@pytest.mark.django_db(transaction=True)
def test_a_file_of_rows_becomes_a_dataset_once(alice: User, project: Project, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(row) + "\n")
    config = write(tmp_path, data={"path": "chats.jsonl"})
    for _ in range(2):
        assert "Completed: step 12 of 12" in call(config, "--user", "alice", "--here")
    assert {run.dataset_reference for run in TrainingRun.objects.all()} == {"chats@1"}
    assert Dataset.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_run_that_fails_ends_the_command_with_its_sentence(alice: User, version: DatasetVersion, tmp_path: Path) -> None:
    config = write(tmp_path, model={"name": "starter", "init_from_checkpoint": "/nowhere"}, algorithm={"kind": "sft"})
    with pytest.raises(CommandError, match=r"Run \d+ failed after step 0\. .+"):
        call(config, "--user", "alice", "--here")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "not YAML in line 1"),
        ("data: {dataset: nothing}\nalgorithm: {kind: mock_sft}", "no dataset version 'nothing'"),
        ("data: {dataset: x}\nalgorithm: {kind: mock_sft, params: {learning_rate: -1}}", "learning_rate"),
        ("data: {path: missing.jsonl}", "there is no file"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_with_a_sentence(
    alice: User, project: Project, tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(CommandError, match=sentence):
        call(path, "--user", "alice")
    assert not TrainingRun.objects.exists()


def test_a_missing_file_or_user_is_refused_with_a_sentence(alice: User, mallory: User, project: Project, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        call(tmp_path / "none.yaml", "--user", "alice")
    with pytest.raises(CommandError, match="no user 'eve'"):
        call(write(tmp_path), "--user", "eve")
    with pytest.raises(CommandError, match="no administrator yet"):
        call(write(tmp_path))
    with pytest.raises(CommandError, match="has no project"):
        call(write(tmp_path), "--user", "mallory", "--project", project.pk)
