"""A run on Fireworks from the form to its checkpoint, with the key of the project and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core import serializers
from django.test import Client

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.checkpoints.chat import stream_opening
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs import metrics
from evsys_web.runs.actions import launch_run
from evsys_web.runs.forms import RunForm, following
from evsys_web.runs.models import RunEvent, Status, TrainingRun
from evsys_web.runs.tasks import train_run
from recipes.config import RunConfig
from recipes.errors import ConfigError
from tests.fireworks_server import KEY, MODEL, FireworksServer, State, fireworks_server

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server() -> Iterator[FireworksServer]:
    with fireworks_server() as made:
        yield made


def launched(server: FireworksServer, user: User, project: Project, version: DatasetVersion, **params: Any) -> TrainingRun:
    store_credential(user=user, project=project, name="fireworks", secret=KEY)
    return launch_run(user=user, project=project, config=config(server, **params), dataset_version=version)


def config(server: FireworksServer, *, model: str = MODEL, kind: str = "fireworks", **params: Any) -> RunConfig:
    backend = {"base_url": server.url, "credential": "fireworks"} if kind == "fireworks" else {}
    return RunConfig.model_validate(
        {
            "name": "sums there",
            "model": {"name": model},
            "data": {"dataset": "sums@1"},
            "algorithm": {"kind": "fireworks_sft", "params": {"batch_size": 4, "poll_seconds": 0.02, **params}},
            "backend": {"kind": kind, "params": backend},
        }
    )


def test_a_run_there_has_curves_events_and_a_checkpoint_here(
    server: FireworksServer, alice: User, project: Project, version: DatasetVersion, eager_tasks: None
) -> None:
    run = launched(server, alice, project, version)
    run.refresh_from_db()
    assert (run.status, run.step, run.error) == (Status.COMPLETED, 4, "")
    assert [row.step for row in metrics.rows(run) if "train/mean_nll" in row.values] == [1, 2, 3, 4]
    (saved,) = run.checkpoints.all()
    assert saved.sampler_uri.startswith("fireworks://accounts/acme/models/evsys-") and not saved.state_uri
    assert RunEvent.objects.filter(run=run, message__contains="12.50 USD").exists()
    client = Client()
    client.force_login(alice)
    assert saved.sampler_uri in client.get(run.get_absolute_url()).content.decode(), "the page says which model it is there"


def test_the_key_is_in_no_row_and_no_file(
    server: FireworksServer, alice: User, project: Project, version: DatasetVersion, eager_tasks: None, runs_dir: Path
) -> None:
    run = launched(server, alice, project, version)
    rows = [run, *RunEvent.objects.filter(run=run), *run.checkpoints.all()]
    assert KEY not in serializers.serialize("json", rows)
    assert not [path for path in runs_dir.rglob("*") if path.is_file() and KEY in path.read_text()]
    assert server.last("GET", "/v1/accounts$").headers["authorization"] == f"Bearer {KEY}"


def test_a_worker_that_shuts_down_leaves_the_job_to_the_next(
    server: FireworksServer, alice: User, project: Project, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.walk = [State("RUNNING", 2)] * 3 + [State("RUNNING", 3)] * 500 + [State("COMPLETED", 4)]
    run = launched(server, alice, project, version)
    server.faults.append(lambda request: _ask_back(run) if request.path.startswith("/signed/") else None)
    train_run.apply(args=[run.pk])
    run.refresh_from_db()
    assert run.status == Status.QUEUED and not server.count("POST", ":cancel$")
    server.faults.clear()
    for job in server.jobs.values():
        job.looks = 1000
    train_run.apply(args=[run.pk])
    run.refresh_from_db()
    assert run.status == Status.COMPLETED and len(server.jobs) == 1
    assert [row.step for row in metrics.rows(run) if "train/mean_nll" in row.values] == [1, 2, 3, 4]


def _ask_back(run: TrainingRun) -> None:
    from django.db import connections

    TrainingRun.objects.get(pk=run.pk).ask_back()
    connections.close_all()


def test_the_form_moves_to_where_the_algorithm_trains_and_to_a_model_there(alice: User, version: DatasetVersion) -> None:
    data = {"dataset_version": str(version.pk), "algorithm": "fireworks_sft", "backend": "local", "model_name": "starter"}
    form = following(alice, {**data, "shown_for": "starter|sft", "backend-device": "cpu"})
    assert form.text("backend") == "fireworks" and form.text("model_name").startswith("accounts/fireworks/models/")
    assert "account_id" in form.settings["backend"].fields and "device" not in form.settings["backend"].fields
    assert "tokenizer" not in form.settings["backend"].fields, "that is for training step by step"
    back = following(alice, {**data, "algorithm": "rl", "backend": "fireworks", "model_name": MODEL, "shown_for": "x|y"})
    assert (back.text("backend"), back.text("model_name")) == ("fireworks", MODEL), "rl samples there while it trains"


def test_step_by_step_it_asks_for_a_tokenizer_and_not_for_what_jobs_want(alice: User) -> None:
    shown = RunForm(alice, start={"algorithm": "sft", "backend": "fireworks", "model_name": MODEL}).settings["backend"].fields
    assert {"tokenizer", "promote", "account_id", "outage_seconds"} <= set(shown), "a model is made in the account, patiently"


def test_the_form_offers_no_backend_that_the_algorithm_does_not_train_on(alice: User) -> None:
    for algorithm, offered in (("fireworks_dpo", ["fireworks"]), ("sft", ["fireworks", "local", "mock", "tinker"])):
        choices = RunForm(alice, start={"algorithm": algorithm}).choices.fields["backend"].choices  # type: ignore[attr-defined]
        assert [kind for kind, _ in choices] == offered


def test_other_backends_and_names_of_elsewhere_are_refused_in_a_sentence(
    server: FireworksServer, alice: User, project: Project, version: DatasetVersion
) -> None:
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    for wrong, words in (
        (config(server, kind="mock"), "does not train on mock"),
        (config(server, model="starter"), "no model of"),
    ):
        with pytest.raises(ConfigError, match=words):
            launch_run(user=alice, project=project, config=wrong, dataset_version=version)


def test_what_it_trained_is_not_sampled_here_and_says_where(
    server: FireworksServer, alice: User, project: Project, version: DatasetVersion, eager_tasks: None
) -> None:
    run = launched(server, alice, project, version)
    with pytest.raises(ConfigError, match="An eval can have one made"):
        stream_opening(run.checkpoints.get())


def test_the_page_of_a_new_run_shows_the_price_list_or_says_that_none_is_known(
    alice_client: Client, version: DatasetVersion
) -> None:
    data = {
        "dataset_version": str(version.pk),
        "algorithm": "fireworks_sft",
        "backend": "fireworks",
        "model_name": MODEL,
        "submission_key": "k",
    }
    said = alice_client.post("/runs/new/estimate", data).content.decode()
    assert "Steps" in said and ("$" in said or "price is not known" in said)
