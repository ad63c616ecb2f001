"""However an address inside is written, no door leads there: endpoints and judges, webhooks, Tinker-compatible servers.

The server is reachable by others here (ALLOWED_HOSTS), so that its own machine may not be called either."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from threading import Thread

import pytest
from django.utils.timezone import now
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project
from evsys_web.addresses import allows_address
from evsys_web.notifications.models import Notice
from evsys_web.notifications.webhooks import DeliveryFailed, post
from evsys_web.runs.backends import backend_secrets
from recipes.config import BackendChoice
from recipes.endpoint import EndpointChat
from recipes.errors import BackendError, ConfigError
from recipes.eval_config import Endpoint
from recipes.types import SamplingParams

INSIDE = [
    *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.0.0.1", "[::1]", "[::ffff:127.0.0.1]"),
    *("0.0.0.0", "[::]", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "[fd00::1]", "[fe80::1]", "[::ffff:a00:1]"),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]"),
]
"""Loopback, private networks, and where clouds tell a machine its own keys: as dotted, decimal, hexadecimal, octal, in IPv6."""


def ask_endpoint(url: str, project: Project) -> None:
    client = EndpointChat(Endpoint(base_url=f"{url}/v1", model="m", max_retries=0), allows_address=allows_address)
    asyncio.run(client.sample([{"role": "user", "content": "hello"}], SamplingParams()))


def send_webhook(url: str, project: Project) -> None:
    post(url, "a secret", Notice(project=project, event_id="1", event="completed", path="/", occurred_at=now()))


def open_tinker(url: str, project: Project) -> None:
    backend_secrets(project, BackendChoice(kind="tinker", params={"base_url": url}))


REFUSED = r"may not be (asked|called) from here|[Ii]nvalid IPv4 address"
"""The second is the client's own word for octal, which it does not know."""
DOORS: list[Callable[[str, Project], None]] = [ask_endpoint, send_webhook, open_tinker]


@pytest.fixture
def inside() -> Iterator[tuple[int, list[str]]]:
    """A port on every address of this machine, and who knocked there."""
    knocked: list[str] = []
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)

    def listen() -> None:
        while True:
            try:
                connection, who = listening.accept()
            except OSError:
                return
            knocked.append(who[0])
            connection.close()

    thread = Thread(target=listen, daemon=True)
    thread.start()
    yield listening.getsockname()[1], knocked
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("host", INSIDE)
def test_nothing_inside_is_called(
    host: str, door: Callable[[str, Project], None], inside: tuple[int, list[str]], project: Project, settings: Settings
) -> None:
    settings.ALLOWED_HOSTS = ["evsys.example.org"]
    port, knocked = inside
    with pytest.raises((BackendError, DeliveryFailed, ConfigError), match=REFUSED):
        door(f"http://{host}:{port}", project)
    assert knocked == []


@pytest.mark.parametrize("door", DOORS[:2], ids=lambda door: door.__name__)
def test_what_the_operator_allows_is_called(
    door: Callable[[str, Project], None], inside: tuple[int, list[str]], project: Project, settings: Settings
) -> None:
    """Else the test above could pass because nothing works."""
    settings.ALLOWED_HOSTS, settings.ALLOW_PRIVATE_URLS = ["evsys.example.org"], True
    port, knocked = inside
    with pytest.raises((BackendError, DeliveryFailed), match="cannot be reached"):  # it hangs up at once
        door(f"http://127.0.0.1:{port}", project)
    assert knocked


def test_a_name_that_came_to_lead_inside_is_not_opened(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOWED_HOSTS = ["evsys.example.org"]
    inside = [(socket.AF_INET, 1, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: inside)
    for door in DOORS:
        with pytest.raises((BackendError, DeliveryFailed, ConfigError), match=r"169\.254\.169\.254, an address"):
            door("https://tinker.example.org", project)
