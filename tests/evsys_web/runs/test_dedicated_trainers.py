"""Runs on dedicated trainers of Fireworks: their price and the consent to it, in the form, by REST and in a clone; their stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from django.test import Client

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import stop_run
from evsys_web.runs.forms import RunForm
from evsys_web.runs.models import RunEvent, Status, TrainingRun
from evsys_web.runs.tasks import train_run
from recipes.backends.fireworks import provisioning
from recipes.resources import ResourceLog
from tests.fireworks_server import KEY, MODEL, FireworksServer, Request, fireworks_server
from tests.fireworks_trainers import SHAPE

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FireworksServer]:
    monkeypatch.setattr(provisioning, "POLL_SECONDS", 0.05)
    with fireworks_server() as made:
        yield made


def backend(**params: Any) -> dict[str, Any]:
    chosen = {"credential": "fireworks", "tokenizer": "starter", "trainer": "dedicated", "accept_billing": True}
    return {"kind": "fireworks", "params": {**chosen, **params}}


def body(project: Project, version: DatasetVersion, **params: Any) -> dict[str, Any]:
    return {
        "project": project.pk,
        "name": "sums there",
        "model": {"name": MODEL},
        "data": {"dataset": version.reference},
        "algorithm": {"kind": "sft", "params": {"batch_size": 4}},
        "backend": backend(**params),
    }


class Door:
    """REST, with alice's token."""

    def __init__(self, client: Client, headers: dict[str, str]) -> None:
        self._client, self._headers = client, headers

    def post(self, path: str, values: Any) -> Any:
        return self._client.post(
            f"/api/v1/runs{path}", json.dumps(values), content_type="application/json", headers=self._headers
        )


@pytest.fixture
def api(client: Client, alice_headers: dict[str, str]) -> Door:
    return Door(client, alice_headers)


def typed(version: DatasetVersion, **values: str) -> dict[str, str]:
    return {
        "dataset_version": str(version.pk),
        "algorithm": "sft",
        "backend": "fireworks",
        "model_name": MODEL,
        "submission_key": "k",
        "backend-tokenizer": "starter",
        "backend-trainer": "dedicated",
        **values,
    }


def test_the_form_asks_for_the_consent_and_says_what_an_hour_costs(alice_client: Client, version: DatasetVersion) -> None:
    refused = alice_client.post("/runs/new", typed(version)).content.decode()
    assert "accept_billing: true" in refused and 'name="backend-accept_billing"' in refused
    said = alice_client.post("/runs/new/estimate", typed(version, **{"backend-accept_billing": "on"})).content.decode()
    assert "billed per GPU-second while it is up" in said and "$8.00 for NVIDIA_H200_141GB, as of 09 September 2026" in said


def test_the_form_asks_the_service_what_an_hour_costs_before_anybody_agrees(
    server: FireworksServer, alice: User, alice_client: Client, mallory_client: Client, project: Project, version: DatasetVersion
) -> None:
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    there = {"backend-base_url": server.url, "backend-credential": "fireworks"}

    def answer(client: Client, **values: str) -> str:
        return client.post("/runs/new/offer", typed(version, **there, **values)).content.decode()

    said = answer(alice_client, **{"backend-training_shape": SHAPE})
    assert "would train on 8 × NVIDIA_H200_141GB" in said and "about $64.00 an hour" in said and KEY not in said
    asked = len(server.requests)
    assert "Training shape" in answer(alice_client, **{"backend-training_shape": "wrong"})
    assert "Choose a dataset first" in answer(mallory_client, **{"backend-training_shape": SHAPE})
    assert "no machine that is billed by the hour" in answer(alice_client, backend="local")
    assert not server.trainers.trainers and len(server.requests) == asked


def test_jobs_have_no_use_for_a_trainer_and_the_pool_says_what_does_nothing(alice: User) -> None:
    job = RunForm(alice, start={"algorithm": "fireworks_sft", "backend": "fireworks", "model_name": MODEL}).settings["backend"]
    assert not {"trainer", "accept_billing", "training_shape", "idle_minutes"} & set(job.fields)
    steps = RunForm(alice, start={"algorithm": "sft", "backend": "fireworks", "model_name": MODEL}).settings["backend"]
    assert {"trainer", "accept_billing", "training_shape", "max_dollars_per_hour"} <= set(steps.fields)


def test_a_clone_takes_every_setting_over_but_the_consent(
    api: Door, alice: User, alice_client: Client, project: Project, version: DatasetVersion
) -> None:
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    without = api.post("", body(project, version, accept_billing=False))
    assert without.status_code == 422 and "accept_billing" in without.content.decode()
    made = api.post("", body(project, version, training_shape=SHAPE))
    assert made.status_code == 201, made.content
    run = TrainingRun.objects.get(pk=made.json()["id"])
    refused = api.post(f"/{run.pk}/clone", {})
    assert refused.status_code == 422 and "accept_billing: true" in refused.content.decode()
    agreed = api.post(f"/{run.pk}/clone", {"backend": {"params": {"accept_billing": True}}})
    assert (
        agreed.status_code == 201 and TrainingRun.objects.get(pk=agreed.json()["id"]).config["backend"] == run.config["backend"]
    )
    page = alice_client.get(f"/runs/new?clone={run.pk}").content.decode()
    box = page.split('name="backend-accept_billing"')[1].split(">")[0]
    assert SHAPE in page and "checked" not in box


def test_a_form_that_yaml_fills_in_leaves_the_box_to_be_ticked(
    alice_client: Client, project: Project, version: DatasetVersion
) -> None:
    values = body(project, version, training_shape=SHAPE)
    text = yaml.safe_dump({name: part for name, part in values.items() if name != "project"})
    page = alice_client.post("/runs/new/import", {"yaml": text}).content.decode()
    box = page.split('name="backend-accept_billing"')[1].split(">")[0]
    assert SHAPE in page and "checked" not in box and "Its consent to pay is not taken over" in page


def test_a_stop_while_the_trainer_is_waited_for_ends_the_run_and_the_trainer(
    server: FireworksServer, alice: User, api: Door, project: Project, version: DatasetVersion
) -> None:
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    server.trainers.walk = ["PENDING"]
    values = body(project, version, training_shape=SHAPE, base_url=server.url)
    run = TrainingRun.objects.get(pk=api.post("", values).json()["id"])

    def stop(request: Request) -> None:
        from django.db import connections

        found = TrainingRun.objects.get(pk=run.pk)
        if request.method == "GET" and "/rlorTrainerJobs/" in request.path and not found.stop_requested:
            stop_run(user=alice, run=found)
        connections.close_all()

    server.faults.append(stop)
    train_run.apply(args=[run.pk])
    run.refresh_from_db()
    assert run.status == Status.CANCELLED, run.error
    assert [each.state for each in server.trainers.trainers.values()] == ["ARCHIVED"]
    assert not ResourceLog(run.output_dir).left()
    assert RunEvent.objects.filter(run=run, message__contains="was deleted").exists()
