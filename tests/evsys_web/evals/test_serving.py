"""A checkpoint at Fireworks is evaluated from the form and from REST, on a deployment that is taken down, or reaped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import serializers
from django.core.management import call_command
from django.test import Client
from django.utils.timezone import now
from pytest_django.fixtures import Settings

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.evals.actions import delete_eval
from evsys_web.evals.models import Benchmark, EvalEvent, EvalRun, Status
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes import serving as serving_module
from recipes.resources import Resource, ResourceLog
from recipes.serving import DEPLOYMENT
from tests.conftest import signed_in, token_headers
from tests.evsys_web.evals.conftest import NUM_TASKS, MakeEval
from tests.fireworks_server import ACCOUNT, KEY, MODEL, FireworksServer, fireworks_server
from tests.fireworks_serving import Deployment

pytestmark = pytest.mark.django_db(transaction=True)
TUNED = f"accounts/{ACCOUNT}/models/evsys-7"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path) -> Iterator[FireworksServer]:
    settings.RUNS_DIR, settings.ALLOW_PRIVATE_URLS = tmp_path / "runs", True
    monkeypatch.setattr(serving_module, "POLL_SECONDS", 0.1)
    with fireworks_server() as made:
        made.models[TUNED] = {}
        yield made


def backend(server: FireworksServer) -> dict[str, Any]:
    return {"kind": "fireworks", "params": {"base_url": server.url, "credential": "fireworks", "timeout_seconds": 60}}


@pytest.fixture
def checkpoint(server: FireworksServer, alice: User, project: Project) -> Checkpoint:
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    config = {"model": {"name": MODEL}, "backend": backend(server)}
    run = TrainingRun.objects.create(project=project, created_by=alice, name="there", status=Status.COMPLETED, config=config)
    return Checkpoint.objects.create(run=run, name="final", step=4, seq=1, sampler_uri=f"fireworks://{TUNED}")


def typed(benchmark: Benchmark, checkpoint: Checkpoint, **values: str) -> dict[str, Any]:
    chosen = {"submission_key": "k", "source": "checkpoint", "checkpoint": checkpoint.pk, "benchmark": benchmark.pk}
    return {**chosen, "attempts-attempts": "2", "sampling-max_tokens": "8", **values}


def test_the_form_says_what_is_billed_and_starts_nothing_without_consent(
    alice_client: Client, checkpoint: Checkpoint, benchmark_row: Benchmark
) -> None:
    shown = alice_client.get("/evals/new", {"checkpoint": checkpoint.pk}).content.decode()
    assert "billed per GPU-second" in shown and 'name="serving-accept_billing"' in shown
    answer = alice_client.post("/evals/new", typed(benchmark_row, checkpoint))
    assert answer.status_code == 422 and "Agree to that" in answer.content.decode() and not EvalRun.objects.exists()
    size = alice_client.post("/evals/new/size", typed(benchmark_row, checkpoint))
    assert (
        "at most 1 replica for at most 4 hours, billed per GPU-second" in size.content.decode()
        and "NVIDIA_H100_80GB $8.00, " in size.content.decode()
    )


def test_weights_of_this_server_are_not_said_to_be_billed(
    alice_client: Client, checkpoint: Checkpoint, benchmark_row: Benchmark
) -> None:
    TrainingRun.objects.update(config={"model": {"name": "starter"}, "backend": {"kind": "local"}})
    assert "billed" not in alice_client.get("/evals/new", {"checkpoint": checkpoint.pk}).content.decode()


def test_from_the_form_it_is_evaluated_and_its_page_tells_what_became_of_the_deployment(
    server: FireworksServer, alice_client: Client, checkpoint: Checkpoint, benchmark_row: Benchmark, eager_tasks: None
) -> None:
    alice_client.post("/evals/new", typed(benchmark_row, checkpoint, **{"serving-accept_billing": "on"}))
    run = EvalRun.objects.get()
    assert (run.status, run.num_done, run.checkpoint, run.error) == (Status.COMPLETED, 2 * NUM_TASKS, checkpoint, "")
    told = " ".join(EvalEvent.objects.filter(eval_run=run).order_by("seq").values_list("message", flat=True))
    assert "about $16.00 an hour" in told and "The deployment answers." in told and "was deleted" in told
    assert not server.serving.up and KEY not in serializers.serialize("json", [run, *EvalEvent.objects.all()]) + told


def test_from_rest_too_and_without_consent_the_refusal_names_the_field(
    server: FireworksServer, alice: User, checkpoint: Checkpoint, benchmark_row: Benchmark, eager_tasks: None
) -> None:
    body: dict[str, Any] = {
        "name": "there",
        "model": {"name": MODEL, "checkpoint": checkpoint.sampler_uri},
        "backend": backend(server),
        "benchmark": benchmark_row.pk,
        "attempts": 1,
    }
    client = Client(headers=token_headers(alice))
    refused = client.post("/api/v1/evals", body, content_type="application/json")
    assert refused.status_code == 422 and "accept_billing" in refused.content.decode()
    body["serving"] = {"accept_billing": True, "shape": "accounts/fireworks/deploymentShapes/qwen3-8b-fast"}
    made = client.post("/api/v1/evals", body, content_type="application/json")
    assert made.status_code == 201, made.content
    assert EvalRun.objects.get().status == Status.COMPLETED and not server.count("POST", ":match$")


def left_by(run: EvalRun, server: FireworksServer) -> None:
    server.serving.deployments["evsys-eval-left"] = Deployment({"baseModel": TUNED}, ["READY"])
    ResourceLog(run.remote_dir).plan(Resource(DEPLOYMENT, "evsys-eval-left", ACCOUNT))


def reaped() -> str:
    out = StringIO()
    call_command("reap", stdout=out)
    return out.getvalue()


def test_a_deployment_that_a_lost_worker_left_is_reaped_within_minutes(
    server: FireworksServer, checkpoint: Checkpoint, make_eval: MakeEval
) -> None:
    lately, ago = now() - timedelta(minutes=1), now() - timedelta(minutes=11)
    run = make_eval(status=Status.CRASHED, finished_at=lately, config={"backend": backend(server)})
    left_by(run, server)
    assert "Nothing was removed" in reaped() and server.serving.up
    EvalRun.objects.update(finished_at=ago)
    assert f"eval run {run.pk}: deployment evsys-eval-left removed." in reaped() and not server.serving.up


def test_a_deleted_eval_leaves_word_of_its_deployment(
    server: FireworksServer, alice: User, checkpoint: Checkpoint, make_eval: MakeEval
) -> None:
    run = make_eval(status=Status.FAILED, finished_at=now(), config={"backend": backend(server)})
    folder = run.remote_dir
    left_by(run, server)
    delete_eval(user=alice, run=run)
    assert folder.exists() and "removed." in reaped() and not server.serving.up and not folder.exists()


def test_a_stranger_neither_sees_nor_serves_it(mallory: User, checkpoint: Checkpoint, benchmark_row: Benchmark) -> None:
    client = signed_in(mallory)
    assert "billed per GPU-second" not in client.get("/evals/new", {"checkpoint": checkpoint.pk}).content.decode()
    values = typed(benchmark_row, checkpoint, **{"serving-accept_billing": "on"})
    assert client.post("/evals/new", values).status_code == 422 and not EvalRun.objects.exists()


def asked_for_an_offer(client: Client, benchmark: Benchmark, checkpoint: Checkpoint, **values: str) -> str:
    answer = client.post("/evals/new/offer", typed(benchmark, checkpoint, **values))
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_form_asks_what_it_would_cost_before_anybody_agrees(
    server: FireworksServer, alice_client: Client, checkpoint: Checkpoint, benchmark_row: Benchmark
) -> None:
    said = asked_for_an_offer(alice_client, benchmark_row, checkpoint)
    assert "would serve it on 2 × NVIDIA_H100_80GB per replica" in said and "about $16.00 an hour" in said
    made = [request.query for request in server.requests if request.path.endswith("/deployments")]
    assert made == [{"validateOnly": "true"}] and not server.serving.deployments


def test_what_needs_no_deployment_has_no_offer_and_a_mistake_is_said(
    server: FireworksServer, alice_client: Client, mallory: User, checkpoint: Checkpoint, benchmark_row: Benchmark
) -> None:
    wrong = {"serving-longest_hours": "never"}
    assert "Longest hours" in asked_for_an_offer(alice_client, benchmark_row, checkpoint, **wrong)
    without = "answers without a deployment"
    assert without in asked_for_an_offer(alice_client, benchmark_row, checkpoint, source="model")
    assert without in asked_for_an_offer(signed_in(mallory), benchmark_row, checkpoint) and not server.requests


def test_where_the_key_is_gone_the_reason_is_said(
    server: FireworksServer, alice_client: Client, project: Project, checkpoint: Checkpoint, benchmark_row: Benchmark
) -> None:
    project.credentials.all().delete()
    assert "fireworks" in asked_for_an_offer(alice_client, benchmark_row, checkpoint) and not server.requests


def test_an_untouched_model_is_served_as_well_once_its_price_is_agreed_to(
    server: FireworksServer, alice_client: Client, checkpoint: Checkpoint, benchmark_row: Benchmark, eager_tasks: None
) -> None:
    server.models[MODEL] = {}
    params = {f"backend-{name}": str(value) for name, value in backend(server)["params"].items()}
    base = {"source": "model", "backend": "fireworks", "model_name": MODEL, **params}
    shown = alice_client.post("/evals/new/settings", {"source": "model", "backend": "fireworks", "model_name": "starter"})
    text = shown.content.decode()
    assert "billed per GPU-second" in text and 'value="accounts/fireworks/models/' in text and "backend-tokenizer" not in text
    refused = alice_client.post("/evals/new", typed(benchmark_row, checkpoint, **base))
    assert refused.status_code == 422 and "Agree to that" in refused.content.decode() and not EvalRun.objects.exists()
    assert "about $16.00 an hour" in asked_for_an_offer(alice_client, benchmark_row, checkpoint, **base)
    nameless = asked_for_an_offer(alice_client, benchmark_row, checkpoint, **(base | {"model_name": ""}))
    assert "Choose a model." in nameless
    alice_client.post("/evals/new", typed(benchmark_row, checkpoint, **base, **{"serving-accept_billing": "on"}))
    run = EvalRun.objects.get()
    assert (run.status, run.num_done, run.checkpoint, run.model_label) == (Status.COMPLETED, 2 * NUM_TASKS, None, MODEL)
    assert not server.serving.up


def test_weights_that_no_deployment_can_serve_are_refused_before_anybody_is_asked_to_pay(
    server: FireworksServer, alice_client: Client, checkpoint: Checkpoint, benchmark_row: Benchmark
) -> None:
    Checkpoint.objects.update(sampler_uri="fireworks://acme/run-0/final")  # of the pool, and not promoted
    size = alice_client.post("/evals/new/size", typed(benchmark_row, checkpoint)).content.decode()
    assert "is no model at Fireworks" in size and "Agree to that" not in size
    answer = alice_client.post("/evals/new", typed(benchmark_row, checkpoint, **{"serving-accept_billing": "on"}))
    assert "setting promote" in answer.context["form"].choices.errors["checkpoint"][0]
    assert not EvalRun.objects.exists() and not server.requests
