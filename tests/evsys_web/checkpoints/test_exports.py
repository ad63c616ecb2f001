"""Merged weights to download, and pushes to a hub on loopback through the real SDK."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

import recipes
from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.checkpoints.export_actions import launch_merge, launch_push, remove_export, stop_export
from evsys_web.checkpoints.models import Export, Status
from evsys_web.checkpoints.tasks import export_checkpoint
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import Checkpoint
from recipes.config import RunConfig
from recipes.errors import CheckpointError, ConfigError
from tests.evsys_web.checkpoints.conftest import MakeCheckpoint, evaluated
from tests.evsys_web.runs.conftest import MakeRun
from tests.hub_server import FakeHub, hub_server

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = [{"messages": [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]}] * 4
CONFIG: dict[str, Any] = {
    "name": "sums <i>",
    "model": {"name": "starter"},
    "data": {"dataset": "sums@1"},
    "algorithm": {"kind": "sft", "params": {"max_steps": 2, "lora_rank": 2, "learning_rate": 0.01}},
    "backend": {"kind": "local", "params": {}},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real adapter of the starter, trained for two steps."""
    folder = tmp_path_factory.mktemp("run")
    result = recipes.train(RunConfig.from_values(CONFIG), run_id="1", output_dir=folder, rows=ROWS)
    return Path(result.artifacts["checkpoint-final"])


@pytest.fixture
def adapter(make_run: MakeRun, weights: Path) -> Checkpoint:
    run = make_run(name="sums <i>", status=Status.COMPLETED, config=CONFIG)
    folder = run.output_dir / "checkpoints" / "final" / "sampler"
    shutil.copytree(weights, folder)
    return Checkpoint.objects.create(run=run, name="final", step=2, sampler_uri=str(folder))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, alice: User, project: Project) -> Iterator[FakeHub]:
    store_credential(user=alice, project=project, name="my hub", secret="hf_secret")
    with hub_server(monkeypatch) as hub:
        yield hub


def pushed(user: User, checkpoint: Checkpoint, **values: Any) -> Export:
    """Pushed by a worker; as it stands afterwards."""
    export = launch_push(user=user, checkpoint=checkpoint, **{"repository": "alice/sums", "credential": "my hub", **values})
    export_checkpoint(export.pk)
    export.refresh_from_db()
    return export


def test_merged_weights_are_what_the_adapter_says_and_come_as_a_zip(
    alice: User, alice_client: Client, adapter: Checkpoint
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from recipes.backends.local.models import STARTER_FOLDER

    export = launch_merge(user=alice, checkpoint=adapter)
    assert export.num_bytes > 500_000 and launch_merge(user=alice, checkpoint=adapter).pk == export.pk
    export_checkpoint(export.pk)
    export.refresh_from_db()
    assert (export.status, export.error, export.is_ready) == (Status.COMPLETED, "", True)
    assert export.num_bytes == sum(path.stat().st_size for path in export.folder.rglob("*")) > 500_000
    ids = torch.tensor([[5, 6, 7, 8]])
    merged = AutoModelForCausalLM.from_pretrained(export.folder)
    base = AutoModelForCausalLM.from_pretrained(STARTER_FOLDER)
    before = base(ids).logits
    theirs = PeftModel.from_pretrained(base, adapter.sampler_uri)(ids).logits
    assert torch.allclose(merged(ids).logits, theirs, atol=1e-4) and not torch.allclose(theirs, before, atol=1e-4)
    assert AutoTokenizer.from_pretrained(export.folder).chat_template
    answer = alice_client.get(reverse("checkpoints:export-download", args=[export.pk]))
    assert answer["Content-Type"] == "application/zip" and "final-merged.zip" in answer["Content-Disposition"]
    remove_export(user=alice, export=export)
    assert not export.folder.exists() and launch_merge(user=alice, checkpoint=adapter).pk != export.pk


def test_an_adapter_is_pushed_with_a_card_and_without_this_servers_paths(
    alice: User, project: Project, adapter: Checkpoint, hub: FakeHub
) -> None:
    evaluated(adapter, project, 0.625, k=4, num_tasks=40, dataset_reference="held|out@1")
    export = pushed(alice, adapter)
    assert (export.status, export.error) == (Status.COMPLETED, "")
    assert export.url == f"{hub.url}/alice/sums" and hub.tokens - {None} == {"Bearer hf_secret"}
    repository = hub.repositories["model/alice/sums"]
    assert repository.private and hub.is_honest() and hub.messages == [f"Step 2 of run {adapter.run_id}"]
    local = Path(adapter.sampler_uri)
    assert repository.files["adapter_model.safetensors"] == (local / "adapter_model.safetensors").read_bytes()
    assert json.loads(repository.files["adapter_config.json"])["base_model_name_or_path"] == "starter"
    card = repository.files["README.md"].decode()
    for words in (
        "library_name: peft",
        "sums \\<i\\>",
        "learning\\_rate | 0.01",
        "held\\|out@1",
        "62.5 %",
        "52.5 – 72.5 %",
        "sums@1",
    ):
        assert words in card
    everything = b"".join(repository.files.values())
    assert str(adapter.run.output_dir).encode() not in everything
    assert json.loads((local / "adapter_config.json").read_text())["r"] == 2, "the checkpoint's own file is untouched"
    assert not list((adapter.run.output_dir / "exports").iterdir()), "what was staged is gone"


def test_merged_weights_are_pushed_as_a_whole_model_to_a_repository_that_is_there(
    alice: User, adapter: Checkpoint, hub: FakeHub
) -> None:
    pushed(alice, adapter, is_private=False)
    export = pushed(alice, adapter, weights="merged")
    repository = hub.repositories["model/alice/sums"]
    assert export.status == Status.COMPLETED and not repository.private
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(repository.files)
    assert "library_name: transformers" in repository.files["README.md"].decode()


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/repos", 401, "does not accept the token"),
        ("/api/repos", 403, "may not do that with alice/sums"),
        ("/api/models/alice/sums/preupload", 404, "knows no alice/sums"),
        ("/api/models/alice/sums/commit", 409, "a conflict"),
        ("/api/models/alice/sums/commit", 418, "The hub refused (418)"),
        ("/api/repos", 500, "in trouble (500)"),
    ],
)
def test_every_refusal_of_the_hub_is_a_sentence(
    alice: User, adapter: Checkpoint, hub: FakeHub, path: str, status: int, words: str
) -> None:
    hub.refusals[path] = status
    export = pushed(alice, adapter)
    assert export.status == Status.FAILED and words in export.error
    assert "hf_secret" not in export.error + export.error_detail
    assert not list((adapter.run.output_dir / "exports").iterdir())


def test_a_hub_that_is_not_there_is_a_sentence(
    alice: User, adapter: Checkpoint, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in pushed(alice, adapter).error
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert "HF_HUB_OFFLINE" in pushed(alice, adapter).error


def test_a_token_that_was_removed_meanwhile_is_a_sentence(
    alice: User, project: Project, adapter: Checkpoint, hub: FakeHub
) -> None:
    export = launch_push(user=alice, checkpoint=adapter, repository="alice/sums", credential="my hub")
    project.credentials.all().delete()
    export_checkpoint(export.pk)
    export.refresh_from_db()
    assert export.status == Status.FAILED and "no credential 'my hub'" in export.error


@pytest.mark.parametrize("repository", ["sums", "a/b/c", "../../etc", "alice/<b>", "alice/a..b", "/sums", ""])
def test_what_is_no_repository_is_refused(alice: User, adapter: Checkpoint, hub: FakeHub, repository: str) -> None:
    with pytest.raises(ConfigError, match="owner/name"):
        launch_push(user=alice, checkpoint=adapter, repository=repository, credential="my hub")


def test_what_cannot_be_exported_is_said_before_anything_is_queued(
    alice: User, alice_client: Client, adapter: Checkpoint, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted = make_checkpoint(sampler_uri="tinker://a/b")
    with pytest.raises(CheckpointError, match="lie with the provider"):
        launch_merge(user=alice, checkpoint=hosted)
    assert "lie with the provider" in alice_client.get(hosted.get_absolute_url()).content.decode()
    usage = shutil.disk_usage(adapter.run.output_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match="0.0 GB are free here"):
        launch_merge(user=alice, checkpoint=adapter)
    with pytest.raises(ConfigError, match="no credential 'other'"):
        launch_push(user=alice, checkpoint=adapter, repository="a/b", credential="other")
    assert not Export.objects.exists()


def test_an_export_is_stopped_and_a_lost_worker_is_told(alice: User, adapter: Checkpoint, hub: FakeHub) -> None:
    export = launch_merge(user=alice, checkpoint=adapter)
    assert stop_export(user=alice, export=export).status == Status.CANCELLED
    export_checkpoint(export.pk)
    assert not export.folder.exists()
    held = launch_push(user=alice, checkpoint=adapter, repository="a/b", credential="my hub")
    assert held.start("worker")
    with pytest.raises(RunRefused, match="Stop it first"):
        remove_export(user=alice, export=held)
    assert "worker was lost" in held.lost_sentence()
    held.note("is kept nowhere, and does no harm")


def test_the_page_offers_what_there_is(alice_client: Client, adapter: Checkpoint, hub: FakeHub) -> None:
    page = alice_client.get(adapter.get_absolute_url()).content.decode()
    assert "Merge into the base" in page and "my hub" in page and "hf_secret" not in page
    key = page.split('name="submission_key" value="')[1].split('"')[0]
    form = {"repository": "alice/sums", "credential": "1", "weights": "adapter", "is_private": "on", "submission_key": key}
    form["credential"] = str(adapter.run.project.credentials.get().pk)
    url = reverse("checkpoints:push", args=[adapter.pk])
    for _ in range(2):
        alice_client.post(url, form)
    assert Export.objects.count() == 1, "a form posted twice pushes once"
    assert "owner/name" in alice_client.post(url, form | {"repository": "x", "submission_key": "2"}, follow=True).content.decode()
    assert "waits for a free worker" in alice_client.get(reverse("checkpoints:exports", args=[adapter.pk])).content.decode()


def test_over_rest(client: Client, alice_headers: dict[str, str], adapter: Checkpoint, hub: FakeHub) -> None:
    url = f"/api/v1/checkpoints/{adapter.pk}/exports"
    body = {"destination": "hub", "repository": "alice/sums", "credential": "my hub"}
    made = client.post(url, json.dumps(body), content_type="application/json", headers=alice_headers).json()
    assert made["status"] == "queued" and made["is_private"] and made["weights"] == "adapter"
    one = f"/api/v1/checkpoints/exports/{made['id']}"
    assert client.post(f"{one}/stop", headers=alice_headers).json()["status"] == "cancelled"
    assert client.get(f"{one}/download", headers=alice_headers).status_code == 409
    assert [each["id"] for each in client.get(url, headers=alice_headers).json()["items"]] == [made["id"]]
    assert client.delete(one, headers=alice_headers).status_code == 204
    bad = client.post(url, '{"destination": "moon"}', content_type="application/json", headers=alice_headers)
    assert bad.status_code == 422 and bad.json()["errors"][0]["field"] == "destination"


def test_a_stranger_exports_nothing(mallory_client: Client, mallory: User, adapter: Checkpoint) -> None:
    for name in ("merge", "push"):
        assert mallory_client.post(reverse(f"checkpoints:{name}", args=[adapter.pk])).status_code == 404
    with pytest.raises(Exception, match="not in this project"):
        launch_merge(user=mallory, checkpoint=adapter)
