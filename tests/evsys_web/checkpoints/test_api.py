"""Checkpoints over REST."""

from __future__ import annotations

import pytest
from django.test import Client

from evsys_web.accounts.models import Project
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from tests.evsys_web.checkpoints.conftest import MakeCheckpoint, evaluated

URL = "/api/v1/checkpoints"


def test_the_list_has_scores_and_pages(
    client: Client, alice_headers: dict[str, str], project: Project, make_checkpoint: MakeCheckpoint, ended_run: TrainingRun
) -> None:
    made = [make_checkpoint(f"step-{step}", step) for step in (30, 10, 20)]
    scored = evaluated(made[1], project, 0.5)
    query = {"limit": "2", "sort": "step", "run": str(ended_run.pk)}
    first = client.get(URL, query, headers=alice_headers).json()
    rest = client.get(URL, {**query, "cursor": first["next_cursor"]}, headers=alice_headers).json()
    found = first["items"] + rest["items"]
    assert [each["step"] for each in found] == [30, 20, 10] and rest["next_cursor"] is None
    assert found[0]["score"] is None and found[2]["score"]["eval_id"] == scored.pk
    assert found[2]["score"]["avg"] == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert found[0]["run"] == "adding up" and found[0]["num_bytes"] > 0
    assert client.get(URL, {"benchmark": "999"}, headers=alice_headers).json()["items"][0]["score"] is None


def test_one_says_its_files_and_what_was_made_from_it(
    client: Client, alice_headers: dict[str, str], project: Project, checkpoint: Checkpoint
) -> None:
    made = evaluated(checkpoint, project, 0.5, status=Status.RUNNING)
    found = client.get(f"{URL}/{checkpoint.pk}", headers=alice_headers).json()
    assert {file["name"] for file in found["files"]} == {"adapter_model.safetensors", "adapter_config.json"}
    assert found["dependents"] == [{"noun": "eval run", "num_rows": 1, "ids": [made.pk]}]
    assert "uses it" in found["why_kept"] and "newest state" in found["resume_warning"]
    refused = client.delete(f"{URL}/{checkpoint.pk}", headers=alice_headers)
    assert refused.status_code == 409 and refused.json()["detail"] == found["why_kept"]


@pytest.mark.django_db(transaction=True)
def test_delete_takes_a_token_that_may_write(
    client: Client, alice_headers: dict[str, str], read_only_headers: dict[str, str], checkpoint: Checkpoint
) -> None:
    assert client.delete(f"{URL}/{checkpoint.pk}", headers=read_only_headers).status_code == 403
    assert client.delete(f"{URL}/{checkpoint.pk}", headers=alice_headers).status_code == 204
    assert client.get(f"{URL}/{checkpoint.pk}", headers=alice_headers).status_code == 404


def test_a_stranger_finds_nothing(client: Client, mallory_headers: dict[str, str], checkpoint: Checkpoint) -> None:
    assert client.get(URL, headers=mallory_headers).json()["items"] == []
    for method in (client.get, client.delete):
        assert method(f"{URL}/{checkpoint.pk}", headers=mallory_headers).status_code == 404
    assert client.get(f"{URL}/{checkpoint.pk}/download", headers=mallory_headers).status_code == 404
