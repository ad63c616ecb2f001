"""Keys for other servers: they go in, sealed, and come out of no door."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from evsys_web.accounts.actions import reveal_credential, store_credential
from evsys_web.accounts.models import BackendCredential, Project, User
from evsys_web.addresses import allows_address
from recipes.errors import ConfigError

SECRET = "sk-a-very-secret-key-0042"


def test_a_key_is_sealed_at_rest_and_opened_for_its_project_alone(alice: User, mallory: User, project: Project) -> None:
    store_credential(user=alice, project=project, name="mine", secret=SECRET)
    row = BackendCredential.objects.values().get()
    assert SECRET not in str(row) and row["hint"] == "0042"
    assert reveal_credential(project=project, name="mine") == SECRET
    with pytest.raises(ConfigError, match="no credential 'mine' in this project"):
        reveal_credential(project=mallory.default_project(), name="mine")


def test_a_new_key_takes_the_place_of_the_old_one(alice: User, project: Project) -> None:
    for secret in (SECRET, "sk-another-secret-key"):
        store_credential(user=alice, project=project, name="mine", secret=secret)
    assert BackendCredential.objects.count() == 1
    assert reveal_credential(project=project, name="mine") == "sk-another-secret-key"


def test_keys_rotate_and_a_lost_one_is_said(alice: User, project: Project, settings: Any) -> None:
    store_credential(user=alice, project=project, name="mine", secret=SECRET)
    former = settings.CREDENTIAL_KEYS
    settings.CREDENTIAL_KEYS = ["n" * 40, *former]
    assert reveal_credential(project=project, name="mine") == SECRET
    settings.CREDENTIAL_KEYS = ["n" * 40]
    with pytest.raises(ConfigError, match="Enter the credential anew"):
        reveal_credential(project=project, name="mine")


def test_the_file_of_the_sealing_key_is_its_owners_alone(settings: Any) -> None:
    file = settings.HOME / "credential_key"
    assert file.stat().st_mode & 0o077 == 0


def test_the_page_stores_lists_and_deletes_without_showing_the_key(alice_client: Client, project: Project) -> None:
    url = reverse("accounts:credentials")
    body = {"project": project.pk, "name": "mine", "kind": "openai", "secret": SECRET}
    page = alice_client.post(url, body, follow=True)
    assert page.status_code == 200 and SECRET not in page.content.decode() and "mine" in page.content.decode()
    refused = alice_client.post(url, {**body, "secret": "a\tb\u00e9", "name": "other"})
    assert "no HTTP header carries" in refused.content.decode() and "\u00e9" not in refused.content.decode()
    alice_client.post(reverse("accounts:delete-credential", args=[BackendCredential.objects.get().pk]))
    assert BackendCredential.objects.count() == 0


def test_a_stranger_neither_sees_nor_stores_nor_deletes(
    alice: User, project: Project, mallory_client: Client, mallory_headers: dict[str, str], client: Client
) -> None:
    stored = store_credential(user=alice, project=project, name="mine", secret=SECRET)
    assert (
        "mine"
        not in mallory_client.get(reverse("accounts:credentials")).content.decode().split("<main")[1].split("Store a key")[0]
    )
    mallory_client.post(reverse("accounts:credentials"), {"project": project.pk, "name": "mine", "secret": "stolen"})
    assert mallory_client.post(reverse("accounts:delete-credential", args=[stored.pk])).status_code == 404
    body = {"project": project.pk, "name": "mine", "secret": "stolen"}
    answer = client.post("/api/v1/credentials", body, content_type="application/json", headers=mallory_headers)
    assert answer.status_code == 404
    assert client.delete(f"/api/v1/credentials/{stored.pk}", headers=mallory_headers).status_code == 404
    assert client.get("/api/v1/credentials", headers=mallory_headers).json()["items"] == []
    assert reveal_credential(project=project, name="mine") == SECRET


def test_the_api_takes_a_key_and_gives_none_back(client: Client, alice_headers: dict[str, str], project: Project) -> None:
    body = {"name": "mine", "secret": SECRET}
    made = client.post("/api/v1/credentials", body, content_type="application/json", headers=alice_headers)
    assert made.status_code == 201 and SECRET not in made.content.decode()
    listed = client.get("/api/v1/credentials", headers=alice_headers)
    assert [each["name"] for each in listed.json()["items"]] == ["mine"] and SECRET not in listed.content.decode()
    assert client.delete(f"/api/v1/credentials/{made.json()['id']}", headers=alice_headers).status_code == 204


def test_the_admin_shows_no_key(alice: User, project: Project, admin: User, client: Client) -> None:
    stored = store_credential(user=alice, project=project, name="mine", secret=SECRET)
    client.force_login(admin)
    page = client.get(f"/admin/accounts/backendcredential/{stored.pk}/change/").content.decode()
    assert "mine" in page and SECRET not in page and stored.sealed not in page


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "192.168.1.1", "172.16.0.9", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "fe80::1%eth0", "fc00::1"]
    + ["::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::", "ff02::1", "no address"]
    + ["192.0.0.192", "::10.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b:1::a00:1", "fec0::1", "5f00::1"],
)
def test_private_addresses_are_refused_however_they_are_written(address: str) -> None:
    assert not allows_address(address)


def test_public_addresses_and_ones_own_machine_are_allowed_but_not_to_guests(settings: Any) -> None:
    assert allows_address("93.184.215.14") and allows_address("2606:4700::1111")
    assert allows_address("127.0.0.1") and allows_address("::1") and allows_address("::ffff:127.0.0.1")
    settings.ALLOWED_HOSTS = ["evsys.example.org", "localhost"]
    assert not allows_address("127.0.0.1") and not allows_address("::1")
    settings.ALLOW_PRIVATE_URLS = True
    assert allows_address("127.0.0.1") and allows_address("10.0.0.1")
