"""A chat with weights that lie on a Tinker server: the stored key goes along, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tinker
from django.test import Client
from pytest_django.fixtures import Settings

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.runs.models import Checkpoint, Status
from tests.evsys_web.checkpoints.test_chat import ask, ends, events
from tests.evsys_web.checkpoints.test_chat import own_process as own_process
from tests.evsys_web.runs.conftest import MakeRun, mock_config
from tests.recipes.tinker_stack import KEY, tinker_server

pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume asynchronous iterators")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with tinker_server(tmp_path / "tinker") as address:
        yield address


@pytest.fixture
def hosted(url: str, make_run: MakeRun, settings: Settings) -> Checkpoint:
    settings.ALLOW_PRIVATE_URLS = True
    with tinker.ServiceClient(base_url=url, api_key=KEY) as service:
        trained = service.create_lora_training_client("starter", rank=2, seed=1).result(timeout=60)
        uri = trained.save_weights_for_sampler("final").result(timeout=60).path
    backend = {"kind": "tinker", "params": {"base_url": url, "credential": "tinker"}}
    run = make_run(status=Status.COMPLETED, config=mock_config() | {"backend": backend})
    return Checkpoint.objects.create(run=run, name="final", step=3, sampler_uri=uri)


def test_both_sides_answer_under_the_stored_key(
    alice_client: Client, alice: User, project: Project, hosted: Checkpoint, url: str
) -> None:
    store_credential(user=alice, project=project, name="tinker", secret=KEY)
    found = events(ask(alice_client, hosted, seed=3))
    assert {"tuned", "base"} == set(ends(found)), found
    assert KEY not in str(found)
    runs = tinker.RestClient(base_url=url, api_key=KEY).list_training_runs().result(timeout=60).training_runs
    assert len(runs) == 1, "nothing that trains was made for the chat"


def test_a_key_that_is_wrong_or_gone_is_a_sentence(
    alice_client: Client, alice: User, project: Project, hosted: Checkpoint
) -> None:
    refused = ask(alice_client, hosted)
    assert refused.status_code == 422 and "There is no credential 'tinker'" in refused.json()["message"]
    store_credential(user=alice, project=project, name="tinker", secret="tml-another")
    told = dict(events(ask(alice_client, hosted)))
    assert "refused the key" in told["error"]["message"] and "tml-another" not in str(told)
