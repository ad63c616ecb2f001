"""Uploads in an S3 bucket instead of a folder: the same actions, against a server on loopback."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from django.core.cache import caches
from django.core.files.storage import default_storage
from django.test import Client
from django.urls import reverse
from moto.server import ThreadedMotoServer
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import delete_dataset, import_dataset, validate_version
from evsys_web.datasets.models import DatasetVersion
from recipes.errors import DataError
from tests.conftest import signed_in
from tests.evsys_web.test_settings import Loader
from tests.evsys_web.test_settings import load as load

pytestmark = pytest.mark.django_db
NUM_ROWS = 2500


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 on loopback; yields its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, load: Loader, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> str:
    """The default storage, as EVSYS_STORAGE_URL and boto3's own variables make it."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"evsys-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    settings.STORAGES = load(EVSYS_STORAGE_URL=f"s3://{name}/team/a")["STORAGES"]
    return name


def keys_in(bucket: str) -> list[str]:
    return [each["Key"] for each in boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.fixture
def version(bucket: str, alice: User, project: Project, tmp_path: Path) -> DatasetVersion:
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    path.write_text("".join(json.dumps({"messages": [*turns], "metadata": {"n": n}}) + "\n" for n in range(NUM_ROWS)))
    return import_dataset(user=alice, project=project, name="sums", path=path).version


def test_rows_go_into_the_bucket_below_the_prefix_and_are_read_from_there(bucket: str, version: DatasetVersion) -> None:
    assert type(default_storage._wrapped).__name__ == "S3Storage"  # type: ignore[attr-defined]
    found = keys_in(bucket)
    assert len(found) == 2 and all(key.startswith("team/a/datasets/") for key in found)
    assert "sums" not in "".join(found), "user text joins no path"
    rows = version.rows[2100:2103]
    assert [row["metadata"]["n"] for row in rows] == [2100, 2101, 2102]
    assert sum(1 for _ in version.read_rows()) == NUM_ROWS
    assert validate_version(version).is_sound


def test_a_file_that_is_gone_from_the_bucket_is_said_in_a_sentence(bucket: str, version: DatasetVersion) -> None:
    boto3.client("s3").delete_object(Bucket=bucket, Key=f"team/a/{version.file.name}")
    with pytest.raises(DataError, match="is gone"):
        next(iter(version.read_rows()))


def test_deleting_the_dataset_empties_the_bucket(
    bucket: str, version: DatasetVersion, alice: User, django_capture_on_commit_callbacks: object
) -> None:
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        delete_dataset(user=alice, dataset=version.dataset)
    assert keys_in(bucket) == []


def test_the_operator_tests_the_bucket_and_nobody_else(bucket: str, admin: User, alice_client: Client) -> None:
    caches["rates"].clear()
    client, url = signed_in(admin), reverse("home:test-storage")
    assert f"s3://{bucket}/team/a" in client.get(reverse("home:operations")).content.decode()
    said = client.post(url, follow=True).content.decode()
    assert f"Works: {bucket} was written to, and what was written is removed." in said and keys_in(bucket) == []
    assert alice_client.post(url).status_code == 404
    boto3.client("s3").delete_bucket(Bucket=bucket)
    assert "nothing at this address (404)" in client.post(url, follow=True).content.decode()
