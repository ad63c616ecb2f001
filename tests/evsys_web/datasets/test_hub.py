"""Versions to the Hugging Face hub and back, through its real client, against a server on loopback."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.utils.timezone import now

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.datasets import hub_actions
from evsys_web.datasets.actions import publish_splits
from evsys_web.datasets.models import SILENT_FOR, DatasetVersion, HubTransfer, StagedUpload
from evsys_web.datasets.tasks import transfer
from recipes.errors import ConfigError
from recipes.rows import RowFormat
from tests.evsys_web.datasets.conftest import chat, jsonl
from tests.evsys_web.datasets.fake_hub import FakeHub

KEY = "hf_a-key-that-must-not-be-seen"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on loopback, named as HF_ENDPOINT would."""
    from huggingface_hub import constants

    with FakeHub(keys={KEY}) as fake:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, fake.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", fake.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_the-operators-own")
        yield fake


@pytest.fixture
def key(alice: User, project: Project) -> str:
    return store_credential(user=alice, project=project, name="hub", secret=KEY).name


@pytest.fixture
def curated(alice: User, project: Project) -> DatasetVersion:
    blocks = [{"type": "text", "text": "blocks beside text"}]
    rows = [chat("a?"), {"messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": "4"}]}]
    splits = {"train": rows, "validation": [chat("v?", metadata={"task_id": 7})]}
    return publish_splits(
        user=alice,
        project=project,
        name="curated",
        splits=splits,
        row_format=RowFormat.MESSAGES,
        source="evals <b>|x| of [m](http://a)",
    ).version


def pushed(user: User, version: DatasetVersion, **values: Any) -> HubTransfer:
    made = hub_actions.publish_version(user=user, version=version, **({"repo_id": "alice/rows", "credential": "hub"} | values))
    transfer(made.pk)
    made.refresh_from_db()
    return made


def pulled(user: User, project: Project, **values: Any) -> HubTransfer:
    made = hub_actions.import_from_hub(user=user, project=project, **({"repo_id": "some/data"} | values))
    transfer(made.pk)
    made.refresh_from_db()
    return made


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_version_goes_to_the_hub_and_comes_back_as_the_same_content(
    hub: FakeHub, alice: User, project: Project, curated: DatasetVersion, key: str, format: Any
) -> None:
    done = pushed(alice, curated, format=format)
    assert (done.status, done.error) == ("completed", "") and done.url.startswith(f"{hub.address}/datasets/alice/rows/commit/")
    stored = hub.datasets["alice/rows"]
    assert stored["private"], "private unless somebody says otherwise"
    assert set(stored["files"]) == {
        "README.md",
        f"data/train-00000-of-00001.{format}",
        f"data/validation-00000-of-00001.{format}",
    }
    back = pulled(alice, project, repo_id="alice/rows", name="back", credential=key)
    assert (back.status, back.error) == ("completed", "")
    assert back.version is not None and back.version.content_hash == curated.content_hash
    assert back.version.splits == curated.splits and back.version.source == f"alice/rows@{'c0ffee000000'}"


def test_the_card_says_how_the_rows_were_made_and_nothing_in_it_acts(
    hub: FakeHub, alice: User, curated: DatasetVersion, key: str
) -> None:
    pushed(alice, curated)
    card = hub.datasets["alice/rows"]["files"]["README.md"].decode()
    assert "| Version | curated@1 |" in card and curated.content_hash in card and "path: data/train-" in card
    assert "evals &lt;b&gt;\\|x\\| of \\[m\\](http://a)" in card and "<b>" not in card


def test_the_key_stays_in_the_call(
    hub: FakeHub, alice: User, project: Project, curated: DatasetVersion, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        pushed(alice, curated)
        hub.failing_with = 403
        refused = pushed(alice, curated)
    assert refused.status == "failed" and "may not do that" in refused.error
    assert "failed for …" in refused.error, "a server that says the key aloud is not repeated"
    assert set(hub.seen_keys) == {KEY}
    values = json.dumps(list(HubTransfer.objects.values()), default=str)
    assert KEY not in values and KEY not in caplog.text


def test_without_a_key_none_is_sent_not_even_the_operators(hub: FakeHub, alice: User, project: Project) -> None:
    hub.datasets["some/data"] = {"files": {"train.jsonl": jsonl(chat("a?"))}, "private": False}
    assert pulled(alice, project).status == "completed"
    assert set(hub.seen_keys) == {None}


def test_what_is_public_already_is_not_published_as_private(hub: FakeHub, alice: User, curated: DatasetVersion, key: str) -> None:
    hub.datasets["alice/rows"] = {"files": {}, "private": False}
    refused = pushed(alice, curated)
    assert "everybody can read it" in refused.error and not hub.datasets["alice/rows"]["files"]
    assert pushed(alice, curated, private=False).status == "completed"


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "wrong, expired or revoked"), (429, "Try again in some minutes"), (503, "Try again later"), (418, "refused (418)")],
)
def test_what_the_hub_refuses_is_said_in_a_sentence(
    hub: FakeHub, alice: User, curated: DatasetVersion, key: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.failing_with = status
    refused = pushed(alice, curated)
    assert refused.status == "failed" and words in refused.error and KEY not in refused.error
    hub.failing_with = 0
    assert hub_actions.go_again(user=alice, found=refused)
    transfer(refused.pk)
    refused.refresh_from_db()
    assert refused.status == "completed"


def test_a_hub_that_is_away_is_a_sentence(hub: FakeHub, alice: User, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in pulled(alice, project).error


def test_a_dataset_config_split_or_revision_that_is_not_there_is_named(hub: FakeHub, alice: User, project: Project) -> None:
    rows = jsonl(chat("a?"))
    hub.datasets["some/data"] = {"files": {"main/train.jsonl": rows, "socratic/train.jsonl": rows}, "private": False}
    hub.datasets["some/pictures"] = {"files": {"a.png": b""}, "private": False}
    hub.datasets["some/secret"] = {"files": {"train.jsonl": rows}, "private": True}
    assert "several configs; name one. It has: main, socratic" in pulled(alice, project).error
    assert "no config 'x'. It has: main, socratic" in pulled(alice, project, config="x").error
    assert "no split 'test'. It has: train" in pulled(alice, project, config="main", split="test").error
    assert "The hub knows no some/data" in pulled(alice, project, revision="nope").error
    assert "no Parquet, JSONL" in pulled(alice, project, repo_id="some/pictures").error
    for repo_id in ("some/secret", "some/nothing"):
        assert f"The hub knows no {repo_id}, or the token may not see it" in pulled(alice, project, repo_id=repo_id).error
    done = pulled(alice, project, config="main")
    assert done.version is not None and done.version.reference == "data@1" and done.version.splits == []


def test_shards_and_folders_become_splits(hub: FakeHub, alice: User, project: Project) -> None:
    files = {
        "data/train-00000-of-00002.jsonl": jsonl(chat("1")),
        "data/train-00001-of-00002.jsonl": jsonl(chat("2")),
        "data/dev.jsonl": jsonl(chat("3")),
        "../escape-train.jsonl": jsonl(chat("never")),
        ".hidden/train.jsonl": jsonl(chat("never")),
        "train\x00.jsonl": jsonl(chat("never")),
    }
    hub.datasets["some/data"] = {"files": files, "private": False}
    version = pulled(alice, project).version
    assert version is not None
    assert version.splits == [{"name": "validation", "num_rows": 1}, {"name": "train", "num_rows": 2}]
    assert sorted(row["messages"][0]["content"] for row in version.read_rows()) == ["1", "2", "3"]


def test_foreign_rows_wait_for_their_owner_or_are_converted_when_agreed(
    hub: FakeHub, alice: User, project: Project, alice_client: Client
) -> None:
    alpaca = jsonl({"instruction": "Add.", "input": "2 + 2", "output": "4"})
    hub.datasets["some/data"] = {"files": {"train.jsonl": alpaca}, "private": False}
    waiting = pulled(alice, project)
    assert waiting.status == "completed" and waiting.version is None
    assert waiting.staged == StagedUpload.objects.get()
    assert "Say how to read the rows" in alice_client.get("/datasets/hub").content.decode()
    done = pulled(alice, project, convert=True)
    assert done.version is not None and done.version.conversion == "Alpaca"
    hub.datasets["some/data"]["files"]["test.jsonl"] = alpaca
    assert "Agree to convert" in pulled(alice, project).error
    both = pulled(alice, project, convert=True).version
    assert both is not None and [split["name"] for split in both.splits] == ["test", "train"]


def test_what_a_card_says_can_be_kept_by_any_database(hub: FakeHub, alice: User, project: Project) -> None:
    card = '---\nconfigs:\n- config_name: "a\\0<b>"\n  data_files: train.jsonl\n- config_name: c\n  data_files: [1, {}]\n---\n'
    hub.datasets["some/data"] = {"files": {"README.md": card.encode(), "train.jsonl": jsonl(chat("a"))}, "private": False}
    assert "It has: a\ufffd<b>, c" in pulled(alice, project).error
    assert "names no file of rows for the config 'c'" in pulled(alice, project, config="c").error


def test_a_bad_row_is_named_with_its_file(hub: FakeHub, alice: User, project: Project) -> None:
    hub.datasets["some/data"] = {"files": {"train.jsonl": jsonl(chat("a")) + b"{broken\n"}, "private": False}
    refused = pulled(alice, project)
    assert refused.error.startswith("train.jsonl: Line 2") and not DatasetVersion.objects.exists()


@pytest.mark.parametrize("repo_id", ["", "rows", "a/b/c", "../etc", "a/../b", "http://evil/x", "a b/c", "a--b/c", "-a/b"])
def test_a_name_that_is_none_is_refused_before_anything_is_queued(
    alice: User, curated: DatasetVersion, key: str, repo_id: str
) -> None:
    with pytest.raises(ConfigError, match="owner/name"):
        hub_actions.publish_version(user=alice, version=curated, repo_id=repo_id, credential=key)
    assert not HubTransfer.objects.exists()


def test_strangers_and_keys_of_others_are_refused(
    alice: User, mallory: User, project: Project, curated: DatasetVersion, key: str
) -> None:
    with pytest.raises(PermissionDenied):
        hub_actions.publish_version(user=mallory, version=curated, repo_id="m/rows", credential=key)
    with pytest.raises(PermissionDenied):
        hub_actions.import_from_hub(user=mallory, project=project, repo_id="m/rows")
    with pytest.raises(ConfigError, match="no credential 'hub'"):
        hub_actions.import_from_hub(user=mallory, project=mallory.default_project(), repo_id="m/rows", credential=key)


def test_only_one_worker_takes_a_transfer_and_a_silent_one_can_go_again(alice: User, project: Project) -> None:
    made = hub_actions.import_from_hub(user=alice, project=project, repo_id="some/data")
    assert made.start() and not made.start()
    assert not hub_actions.go_again(user=alice, found=made), "it is under way"
    HubTransfer.objects.update(seen_at=now() - SILENT_FOR * 2)
    made.refresh_from_db()
    assert made.can_go_again and hub_actions.go_again(user=alice, found=made) and made.status == "queued"


def test_the_pages_and_the_api_ask_for_transfers(
    alice_client: Client, alice_headers: dict[str, str], curated: DatasetVersion, key: str, project: Project
) -> None:
    url = f"/datasets/versions/{curated.pk}/publish"
    page = alice_client.get(url).content.decode()
    assert "hub" in page and KEY not in page
    credential = project.credentials.get()
    refused = alice_client.post(url, {"repo_id": "<b>", "credential": credential.pk, "format": "parquet"})
    assert refused.status_code == 422 and "&lt;b&gt;" in refused.content.decode()
    done = alice_client.post(url, {"repo_id": "a/rows", "credential": credential.pk, "format": "jsonl", "private": "on"})
    assert done.status_code == 302
    made = HubTransfer.objects.get()
    assert (made.repo_id, made.is_private, made.format, made.credential) == ("a/rows", True, "jsonl", "hub")
    fragment = alice_client.get(url, headers={"HX-Request": "true"}).content.decode()
    assert "every 2s" in fragment and "a/rows" in fragment and "<html" not in fragment
    assert alice_client.post("/datasets/hub", {"repo_id": "some/data", "split": "train"}).status_code == 302
    api = "/api/v1/hub-transfers"
    body = {"version": curated.pk, "repo_id": "a/rows", "credential": "hub"}
    sent = alice_client.post(f"{api}/push", body, content_type="application/json", headers=alice_headers)
    assert sent.status_code == 202 and sent.json()["is_private"] and sent.json()["status"] == "queued"
    wrong = alice_client.post(f"{api}/pull", {"repo_id": "x y"}, content_type="application/json", headers=alice_headers)
    assert wrong.status_code == 422 and "repo_id" in wrong.content.decode()
    for field in ("config", "split", "revision", "credential", "name"):
        body = {"repo_id": "some/data", field: "a\x00b"}
        refused = alice_client.post(f"{api}/pull", body, content_type="application/json", headers=alice_headers)
        assert refused.status_code == 422, field
    assert len(alice_client.get(api, headers=alice_headers).json()["items"]) == 3
