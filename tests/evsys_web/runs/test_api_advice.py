"""Recommended values and estimates through the API: the same that the form shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.models import TrainingRun
from recipes.presets import recommended
from tests.evsys_web.runs.conftest import mock_config


def estimate(client: Client, headers: dict[str, str], **params: Any) -> Any:
    return client.post(
        "/api/v1/runs/estimate", json.dumps(mock_config(**params)), content_type="application/json", headers=headers
    )


def test_a_script_starts_from_what_the_form_starts_from(client: Client, alice_headers) -> None:
    answer = client.get("/api/v1/runs/recommended", {"model": "starter", "algorithm": "sft"}, headers=alice_headers).json()
    assert answer == {"params": dict(recommended("starter", "sft").params), "why": recommended("starter", "sft").why}


def test_an_unknown_algorithm_is_refused_with_those_there_are(client: Client, alice_headers) -> None:
    answer = client.get("/api/v1/runs/recommended", {"algorithm": "astrology"}, headers=alice_headers)
    assert answer.status_code == 422 and "sft" in answer.json()["detail"]


def test_an_estimate_starts_nothing(client: Client, alice_headers, version: DatasetVersion) -> None:
    answer = estimate(client, alice_headers, batch_size=5, num_epochs=2)
    assert answer.status_code == 200, answer.content
    found = answer.json()
    assert (found["steps"], found["rows_seen"], found["num_rows"]) == (6, 24, 12)
    assert found["tokens"]["low"] <= found["tokens"]["high"]
    assert not TrainingRun.objects.exists()


def test_an_estimate_refuses_what_a_run_would_be_refused_for(client: Client, alice_headers, version: DatasetVersion) -> None:
    answer = estimate(client, alice_headers, batch_size=0)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "algorithm.params.batch_size"


@pytest.mark.parametrize("fixture", ["mallory_headers", "read_only_headers"])
def test_a_strangers_rows_are_not_counted_and_reading_does_not_suffice(client: Client, version, request, fixture) -> None:
    assert estimate(client, request.getfixturevalue(fixture)).status_code in (403, 404, 422)


def test_an_estimate_says_what_will_have_no_effect(client: Client, alice_headers, version: DatasetVersion) -> None:
    notes = estimate(client, alice_headers, lora_rank=3, lr_warmup_steps=2).json()["notes"]
    assert "mock_sft does not use lora_rank; it has no effect." in notes
    assert "lr_warmup_steps has no effect under the schedule constant." in notes
