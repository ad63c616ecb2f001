"""A model that is typed into the form of a run stays typed, also one that cannot be: it is refused, never swapped for another."""

from __future__ import annotations

import pytest
from django.test import Client

from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.models import TrainingRun
from tests.evsys_web.runs.test_form import NEW, fields, value_of

pytestmark = pytest.mark.django_db
TYPED = "/nowhere/model"


def test_a_model_that_is_not_there_stays_in_its_field_and_is_refused(alice_client: Client, version: DatasetVersion) -> None:
    typed = fields(version, algorithm="sft", backend="local", model_name=TYPED)
    page = alice_client.post("/runs/new/settings", {**typed, "shown_for": "starter|sft|local"}).content.decode()
    assert value_of(page, "model_name") == TYPED and value_of(page, "shown_for") == f"{TYPED}|sft|local"
    again = alice_client.post("/runs/new/settings", {**typed, "shown_for": f"{TYPED}|sft|local"}).content.decode()
    assert value_of(again, "model_name") == TYPED
    refused = alice_client.post(NEW, typed).content.decode()
    assert TYPED in refused and 'id="id_model_name_error"' in refused and not TrainingRun.objects.exists()


def test_another_backend_brings_a_model_that_it_has(alice_client: Client, version: DatasetVersion) -> None:
    typed = fields(version, algorithm="sft", backend="local", model_name=TYPED)
    page = alice_client.post("/runs/new/settings", {**typed, "shown_for": f"{TYPED}|sft|tinker"}).content.decode()
    assert value_of(page, "model_name") != TYPED
