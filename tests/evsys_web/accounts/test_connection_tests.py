"""A stored key is tried at its server by page and REST, by those who may use it, not too often; nobody is told the key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import AuditEntry, BackendCredential, CredentialKind, Project, User
from recipes.probes import KeyKind
from tests.recipes.test_probes import GOOD, KEY, Told, server

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nobody_tested_before() -> None:
    caches["rates"].clear()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that HF_ENDPOINT names, and that knows KEY: its client is the quickest to begin."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with server(Told(body=GOOD[KeyKind.HUB])) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield


@pytest.fixture
def stored(alice: User, project: Project) -> BackendCredential:
    return store_credential(user=alice, project=project, name="a hub", secret=KEY, kind=CredentialKind.HUB)


def test_kinds_are_those_that_can_be_tried() -> None:
    assert set(CredentialKind.values) == set(KeyKind) - {KeyKind.S3}


def test_the_page_tries_a_key_and_says_what_it_found(alice_client: Client, stored: BackendCredential, hub: None) -> None:
    page = alice_client.post(reverse("accounts:test-credential", args=[stored.pk]), {"kind": "hub", "base_url": ""}, follow=True)
    text = page.content.decode()
    assert "Works: user alice, may write." in text and KEY not in text
    assert "Works" in alice_client.get(reverse("accounts:credentials")).content.decode()
    entry = AuditEntry.objects.get(verb="tested")
    assert entry.username == "alice" and entry.changes["test_outcome"] == [None, "works"] and KEY not in str(entry.changes)


def test_rest_says_that_a_key_is_refused_and_a_new_key_is_untested(
    client: Client, alice: User, project: Project, alice_headers: dict[str, str], stored: BackendCredential, hub: None
) -> None:
    store_credential(user=alice, project=project, name="a hub", secret="hf_another_key_altogether", kind=CredentialKind.HUB)
    url = f"/api/v1/credentials/{stored.pk}/test"
    told = client.post(url, {}, content_type="application/json", headers=alice_headers).json()
    assert (told["test_outcome"], told["test_sentence"]) == ("fails", "The server refused the key (401).")
    assert told["tested_at"] and "hf_another" not in str(told)
    again = store_credential(user=alice, project=project, name="a hub", secret=KEY, kind=CredentialKind.HUB)
    assert (again.tested_at, again.test_outcome, again.test_sentence) == (None, "", "")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"kind": "openai"}, "Say where"),
        ({"kind": "openai", "base_url": "ftp://example.org"}, "This is no address"),
        ({"kind": "tinker", "base_url": "http://169.254.169.254/v1"}, "inside a private network"),
        ({"kind": "hub", "base_url": "https://example.org"}, "Leave the address empty"),
    ],
)
def test_an_address_of_no_sense_is_refused_before_anybody_is_asked(
    sent: dict[str, str],
    said: str,
    client: Client,
    alice_client: Client,
    alice_headers: dict[str, str],
    stored: BackendCredential,
) -> None:
    answer = client.post(f"/api/v1/credentials/{stored.pk}/test", sent, content_type="application/json", headers=alice_headers)
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "base_url" and said in answer.json()["detail"]
    page = alice_client.post(reverse("accounts:test-credential", args=[stored.pk]), sent)
    assert page.status_code == 422 and said in page.content.decode()
    assert not AuditEntry.objects.filter(verb="tested").exists()


def test_a_viewer_may_not_and_a_stranger_does_not_know_of_it(
    carol_client: Client, mallory_client: Client, stored: BackendCredential
) -> None:
    url = reverse("accounts:test-credential", args=[stored.pk])
    assert carol_client.post(url, {"kind": "hub"}).status_code == 403
    assert carol_client.get(reverse("accounts:credential", args=[stored.pk])).status_code == 200
    assert mallory_client.post(url, {"kind": "hub"}).status_code == 404
    assert mallory_client.get(reverse("accounts:credential", args=[stored.pk])).status_code == 404


def test_too_many_tests_are_refused_with_a_sentence(
    client: Client, alice_client: Client, alice_headers: dict[str, str], stored: BackendCredential, settings: Settings
) -> None:
    settings.CONNECTION_TESTS_AT_ONCE = 0
    url, body = f"/api/v1/credentials/{stored.pk}/test", {"content_type": "application/json", "headers": alice_headers}

    def ask() -> Any:
        return client.post(url, {}, **body)

    busy = ask()
    assert busy.status_code == 429 and "being tested at this moment" in busy.json()["detail"] and busy["Retry-After"]
    settings.CONNECTION_TESTS_A_MINUTE = 0
    assert "You may test" in ask().json()["detail"]
    page = alice_client.post(reverse("accounts:test-credential", args=[stored.pk]), {"kind": "hub"}, follow=True)
    assert "You may test" in page.content.decode()
