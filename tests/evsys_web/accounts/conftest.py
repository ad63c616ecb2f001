"""A provider of single sign-on, for whoever tests with one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.test import Client

from evsys_web.environment import Oidc, oidc_providers
from tests.oidc_server import CLIENT_ID, CLIENT_SECRET, FakeProvider, oidc_server


@pytest.fixture(scope="session")
def running() -> Iterator[FakeProvider]:
    with oidc_server() as provider:
        yield provider


@pytest.fixture
def provider(running: FakeProvider, settings: Any) -> FakeProvider:
    """As it is at first, and configured as an operator does who lets in example.org."""
    running.reset()
    configure(settings, running, "example.org")
    for cache in caches.all():
        cache.clear()
    return running


def configure(settings: Any, provider: FakeProvider, *domains: str) -> None:
    settings.OIDC = Oidc(provider.url, CLIENT_ID, CLIENT_SECRET, "Keycloak", list(domains))
    settings.SOCIALACCOUNT_PROVIDERS = oidc_providers(settings.OIDC)
    settings.SOCIALACCOUNT_REQUESTS_TIMEOUT = 60


def is_in(client: Client) -> bool:
    return client.get("/accounts/").status_code == 200
