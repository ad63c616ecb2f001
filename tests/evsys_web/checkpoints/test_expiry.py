"""Weights that a provider keeps for a time: when they go is said before, and nothing is begun on what is gone."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import launch_run
from evsys_web.runs.forms import checkpoints_for
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.config import RunConfig
from recipes.errors import ConfigError
from tests.evsys_web.runs.conftest import mock_config

URI = "tinker://run:train:0/sampler_weights/final"


@pytest.fixture
def hosted(ended_run: TrainingRun) -> Any:
    def make(expires_at: datetime | None, **values: Any) -> Checkpoint:
        defaults = {"run": ended_run, "name": "final", "step": 30, "sampler_uri": URI, "expires_at": expires_at}
        return Checkpoint.objects.create(**(defaults | values))

    return make


def pages(client: Client, checkpoint: Checkpoint) -> list[str]:
    """The list, the checkpoint's page, and its run's table."""
    urls = (
        reverse("checkpoints:list"),
        checkpoint.get_absolute_url(),
        reverse("runs:checkpoints", args=[checkpoint.run_id]),
    )
    return [client.get(url).content.decode() for url in urls]


def test_when_it_expires_is_on_every_page_and_in_the_api(
    alice_client: Client, client: Client, alice_headers: dict[str, str], hosted: Any
) -> None:
    checkpoint = hosted(now() + timedelta(days=6, hours=1))
    at = f"{checkpoint.expires_at:%Y-%m-%dT%H:%M:%S}"
    for page in pages(alice_client, checkpoint):
        assert "expires <time" in page and at in page and "badge-warn" not in page
    url = "/api/v1/checkpoints"
    for found in (client.get(f"{url}/{checkpoint.pk}", headers=alice_headers).json(), *_items(client, alice_headers, checkpoint)):
        assert found["expires_at"].startswith(at)


def _items(client: Client, headers: dict[str, str], checkpoint: Checkpoint) -> list[dict[str, Any]]:
    urls = ("/api/v1/checkpoints", f"/api/v1/runs/{checkpoint.run_id}/checkpoints")
    return [client.get(url, headers=headers).json()["items"][0] for url in urls]


def test_one_that_expires_soon_is_warned_of(alice_client: Client, hosted: Any) -> None:
    checkpoint = hosted(now() + timedelta(days=2))
    for page in pages(alice_client, checkpoint):
        assert "badge-warn" in page
    assert "removes these weights soon" in alice_client.get(checkpoint.get_absolute_url()).content.decode()


def test_weights_that_stay_say_nothing_of_it(alice_client: Client, hosted: Any) -> None:
    for page in pages(alice_client, hosted(None)):
        assert "expire" not in page


def test_nothing_is_begun_on_what_has_expired(
    alice_client: Client, alice: User, project: Project, version: DatasetVersion, hosted: Any
) -> None:
    checkpoint = hosted(now() - timedelta(minutes=1))
    for page in pages(alice_client, checkpoint):
        assert "expired" in page and reverse("checkpoints:chat", args=[checkpoint.pk]) not in page
    assert checkpoint not in checkpoints_for(alice)
    values = mock_config() | {"model": {"name": "starter", "init_from_checkpoint": URI}}
    with pytest.raises(ConfigError, match="adding up final expired on"):
        launch_run(user=alice, project=project, config=RunConfig.from_values(values), dataset_version=version)
    body = json.dumps({"prompt": "What is 1 + 1?"})
    refused = alice_client.post(reverse("checkpoints:chat-replies", args=[checkpoint.pk]), body, content_type="application/json")
    assert refused.status_code == 422 and "has expired" in refused.json()["message"]


def test_the_expiry_of_a_strangers_checkpoint_is_not_told(
    mallory: User, version: DatasetVersion, project: Project, alice: User, hosted: Any
) -> None:
    from evsys_web.runs.actions import refuse_expired

    hosted(now() - timedelta(minutes=1))
    refuse_expired(mallory, URI, path=("model", "init_from_checkpoint"))
    with pytest.raises(ConfigError, match="expired"):
        refuse_expired(alice, URI, path=("model", "init_from_checkpoint"))
