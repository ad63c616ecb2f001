"""The list of channels, a channel's page, and what strangers find there."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project, User
from evsys_web.notifications.models import Channel, Delivery
from evsys_web.notifications.tasks import deliver
from tests.evsys_web.notifications.conftest import EVENTS, MakeChannel
from tests.evsys_web.notifications.receiver import receiver

URL = "/notifications/"


def webhook(project: Project, target: str, *, events: list[str] = EVENTS) -> dict[str, object]:
    return {"kind": "webhook", "webhook-project": project.pk, "webhook-target": target, "webhook-events": events}


def test_a_webhook_is_added_and_its_secret_shown_once(alice_client: Client, project: Project) -> None:
    page = alice_client.post(URL, webhook(project, "https://example.org/hook?token=1"))
    found = re.search(r"whsec_[\w-]{43}", page.content.decode())
    assert page.status_code == 200 and found
    assert page.headers["Cache-Control"].startswith("max-age=0")
    channel = Channel.objects.get()
    assert channel.is_on and channel.events == EVENTS and found[0] not in channel.sealed_secret
    for address in (URL, channel.get_absolute_url()):
        assert "whsec_" not in alice_client.get(address).content.decode()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("ftp://example.org", "begins with http:// or https://"),
        ("https://", "begins with http:// or https://"),
        ("https://exa mple.org", "begins with http:// or https://"),
        ("https://user:pass@example.org/", "Leave name and password out"),
        ("http://10.0.0.1/hook", "inside a private network"),
        ("http://[fd00::1]:8080/", "inside a private network"),
        ("http://169.254.169.254/latest/meta-data", "inside a private network"),
        ("javascript:alert(1)", "begins with http:// or https://"),
        ("http://example.org:99999/", "begins with http:// or https://"),
    ],
)
def test_an_address_that_cannot_be_told_is_refused_at_its_field(
    alice_client: Client, project: Project, target: str, sentence: str
) -> None:
    page = alice_client.post(URL, webhook(project, target))
    assert page.status_code == 422 and sentence in page.content.decode().replace("&#x27;", "'")
    assert not Channel.objects.exists()


def test_the_same_address_twice_and_no_event_are_refused(alice_client: Client, project: Project) -> None:
    alice_client.post(URL, webhook(project, "https://example.org/hook"))
    again = alice_client.post(URL, webhook(project, "https://example.org/hook"))
    assert again.status_code == 422 and "tells that address already" in again.content.decode()
    none = alice_client.post(URL, webhook(project, "https://example.org/other", events=[]))
    assert none.status_code == 422 and "Choose at least one event" in none.content.decode()
    assert Channel.objects.count() == 1


def test_email_is_off_until_the_operator_names_a_server(alice_client: Client, project: Project, settings: Settings) -> None:
    body = {"kind": "email", "email-project": project.pk, "email-target": "ada@example.org", "email-events": EVENTS}
    assert "EMAIL_URL" in alice_client.get(URL).content.decode()
    assert alice_client.post(URL, body).status_code == 422
    settings.EMAIL_IS_SENT = True
    refused = alice_client.post(URL, {**body, "email-target": "ada@example.org, eve@example.org"})
    assert refused.status_code == 422
    page = alice_client.post(URL, body)
    assert page.status_code == 200 and "The address is added" in page.content.decode()
    assert Channel.objects.get().sealed_secret == ""


def test_a_member_sends_a_test_and_sees_what_was_answered(bob_client: Client, make_channel: MakeChannel) -> None:
    with receiver(418) as server:
        channel = make_channel(server.url)
        bob_client.post(reverse("notifications:test", args=[channel.pk]))
        waiting = bob_client.get(channel.get_absolute_url()).content.decode()
        assert "Waiting" in waiting and 'hx-trigger="every 2s"' in waiting
        deliver.apply(args=[Delivery.objects.get().pk])
    page = bob_client.get(reverse("notifications:deliveries", args=[channel.pk])).content.decode()
    assert "Given up" in page and "418" in page and "every 2s" not in page
    again = bob_client.post(reverse("notifications:test", args=[channel.pk]), follow=True)
    assert "a moment ago" in again.content.decode()


def test_events_are_chosen_and_the_channel_switched_and_deleted(alice_client: Client, make_channel: MakeChannel) -> None:
    channel = make_channel()
    alice_client.post(channel.get_absolute_url(), {"events": ["crashed"]})
    assert alice_client.post(channel.get_absolute_url(), {"events": ["cancelled"]}).status_code == 422
    alice_client.post(reverse("notifications:switch", args=[channel.pk]), {"on": "0"})
    channel.refresh_from_db()
    assert channel.events == ["crashed"] and not channel.is_on
    assert "Turned off by alice." in alice_client.get(channel.get_absolute_url()).content.decode()
    alice_client.post(reverse("notifications:switch", args=[channel.pk]), {"on": "1"})
    channel.refresh_from_db()
    assert channel.is_on and channel.off_reason == ""
    alice_client.post(reverse("notifications:delete", args=[channel.pk]))
    assert not Channel.objects.exists()


def test_what_a_run_is_called_is_shown_as_text(alice: User, alice_client: Client, make_channel: MakeChannel) -> None:
    channel = make_channel("https://example.org/?<script>alert(1)</script>")
    for address in (URL, channel.get_absolute_url()):
        assert "<script>alert" not in alice_client.get(address).content.decode()


def test_a_stranger_neither_sees_nor_adds_nor_tests(mallory_client: Client, make_channel: MakeChannel, project: Project) -> None:
    channel = make_channel("https://example.org/of-alice")
    assert channel.target not in mallory_client.get(URL).content.decode()
    assert mallory_client.post(URL, webhook(project, "https://evil.example/hook")).status_code == 422
    for name in ("test", "switch", "delete"):
        assert mallory_client.post(reverse(f"notifications:{name}", args=[channel.pk])).status_code == 404
    assert mallory_client.get(channel.get_absolute_url()).status_code == 404
    assert Channel.objects.get().is_on and not Delivery.objects.exists()


def test_staff_look_at_channels_and_find_no_secret(admin: User, client: Client, make_channel: MakeChannel) -> None:
    channel = make_channel()
    client.force_login(admin)
    for address in ("", f"{channel.pk}/change/"):
        page = client.get(f"/admin/notifications/channel/{address}")
        assert page.status_code == 200 and channel.sealed_secret not in page.content.decode()
    assert client.get("/admin/notifications/delivery/").status_code == 200
