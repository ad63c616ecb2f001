"""Channels over REST."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from evsys_web.accounts.models import Project
from evsys_web.notifications.models import Channel
from tests.evsys_web.notifications.conftest import EVENTS, MakeChannel

URL = "/api/v1/notifications"
BODY = {"kind": "webhook", "target": "https://example.org/hook"}


def post(client: Client, headers: dict[str, str], body: Any, path: str = "", **more: str) -> Any:
    return client.post(f"{URL}{path}", body, content_type="application/json", headers={**headers, **more})


def test_a_webhook_is_added_listed_changed_tested_and_deleted(
    client: Client, alice_headers: dict[str, str], project: Project
) -> None:
    made = post(client, alice_headers, BODY)
    assert made.status_code == 201 and made.json()["secret"].startswith("whsec_")
    channel = made.json()["channel"]
    assert (channel["project_id"], channel["events"], channel["is_on"]) == (project.pk, EVENTS, True)
    listed = client.get(URL, headers=alice_headers)
    assert [each["id"] for each in listed.json()["items"]] == [channel["id"]] and "whsec_" not in listed.content.decode()
    change = {"events": ["nan_loss"], "is_on": False}
    one = f"{URL}/{channel['id']}"
    changed = client.patch(one, change, content_type="application/json", headers=alice_headers).json()
    assert (changed["events"], changed["is_on"], changed["off_reason"]) == (["nan_loss"], False, "Turned off by alice.")
    assert post(client, alice_headers, {}, f"/{channel['id']}/test").json()["type"] == "test"
    (sent,) = client.get(f"{one}/deliveries", headers=alice_headers).json()["items"]
    assert sent["status"] == "queued" and sent["event_id"].startswith("evt_")
    assert post(client, alice_headers, {}, f"/{channel['id']}/test").status_code == 409
    assert client.delete(one, headers=alice_headers).status_code == 204
    assert client.get(one, headers=alice_headers).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [({"target": "http://192.168.0.1/"}, "target"), ({"events": ["done"]}, "events"), ({"events": []}, "events")]
    + [({"kind": "pigeon"}, "kind"), ({"kind": "email", "target": "ada@example.org"}, "target"), ({"project": 0}, "project")],
)
def test_what_is_wrong_is_said_at_its_field(
    client: Client, alice_headers: dict[str, str], change: dict[str, Any], field: str
) -> None:
    refused = post(client, alice_headers, BODY | change)
    assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == field
    assert not Channel.objects.exists()


def test_the_same_key_adds_one_webhook(client: Client, alice_headers: dict[str, str]) -> None:
    first, second = (post(client, alice_headers, BODY, **{"Idempotency-Key": "once"}) for _ in range(2))
    assert first.json() == second.json() and Channel.objects.count() == 1


def test_a_stranger_and_a_read_only_token_change_nothing(
    client: Client,
    mallory_headers: dict[str, str],
    read_only_headers: dict[str, str],
    make_channel: MakeChannel,
    project: Project,
) -> None:
    channel = make_channel()
    assert post(client, mallory_headers, BODY | {"project": project.pk}).status_code == 404
    assert post(client, mallory_headers, {}, f"/{channel.pk}/test").status_code == 404
    assert client.get(f"{URL}/{channel.pk}/deliveries", headers=mallory_headers).status_code == 404
    assert client.get(URL, headers=mallory_headers).json()["items"] == []
    assert post(client, read_only_headers, {}, f"/{channel.pk}/test").status_code == 403
    assert client.delete(f"{URL}/{channel.pk}", headers=read_only_headers).status_code == 403
    assert Channel.objects.count() == 1
