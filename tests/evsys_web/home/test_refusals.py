"""Addresses that give nothing: whoever is signed in can go on from there, and nobody else learns what there is."""

from __future__ import annotations

import pytest
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.test import Client, override_settings
from django.urls import path

from evsys_web.runs.models import TrainingRun
from evsys_web.urls import urlpatterns as all_of_them
from tests.evsys_web.runs.conftest import run as run
from tests.evsys_web.runs.conftest import version as version


def broken(request: HttpRequest) -> None:
    raise RuntimeError("secret")


def refused(request: HttpRequest) -> None:
    raise PermissionDenied("Ask <b>alice</b>.")


urlpatterns = [*all_of_them, path("broken", broken), path("refused", refused)]
SHELL = 'aria-label="Main"'


@override_settings(ROOT_URLCONF=__name__)
def test_whoever_is_signed_in_keeps_the_navigation(alice_client: Client, mallory_client: Client, run: TrainingRun) -> None:
    for client, address, status in ((alice_client, "/nowhere", 404), (mallory_client, run.get_absolute_url(), 404)):
        answer = client.get(address)
        assert answer.status_code == status and SHELL in answer.content.decode()
    answer = alice_client.get("/refused")
    assert answer.status_code == 403 and SHELL in answer.content.decode()
    assert "Ask &lt;b&gt;alice&lt;/b&gt;." in answer.content.decode()


def test_nobody_is_told_where_things_are(client: Client, db: None) -> None:
    answer = client.get("/nowhere")
    assert answer.status_code == 404 and SHELL not in answer.content.decode()


@override_settings(ROOT_URLCONF=__name__, DEBUG_PROPAGATE_EXCEPTIONS=False)
def test_what_broke_is_not_told(alice_client: Client) -> None:
    alice_client.raise_request_exception = False
    answer = alice_client.get("/broken")
    assert answer.status_code == 500 and "Something broke on our side" in answer.content.decode()
    assert "secret" not in answer.content.decode()


@pytest.mark.django_db(transaction=True)
def test_an_address_that_only_takes_a_button_says_so(alice_client: Client, run: TrainingRun) -> None:
    answer = alice_client.get(f"{run.get_absolute_url()}stop")
    assert answer.status_code == 405 and "POST" in answer["Allow"]
    assert "Nothing was done" in answer.content.decode() and SHELL in answer.content.decode()
    assert alice_client.put(f"{run.get_absolute_url()}stop").content == b""
