"""A cycle whose models Fireworks serves: it goes round on deployments that were agreed to once, and leaves none behind."""

from __future__ import annotations

import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fireworks._base_client
import pytest
import yaml
from django.core import serializers
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from pytest_django.fixtures import Settings

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.cycles.actions import resume_cycle, stop_cycle
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.export import export_cycle
from evsys_web.cycles.import_actions import import_cycle
from evsys_web.cycles.models import Cycle, Stage, Status, visible_cycle
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import Benchmark, EvalEvent
from evsys_web.runs.models import TrainingRun
from recipes import serving as serving_module
from recipes.errors import ConfigError
from tests.conftest import signed_in
from tests.evsys_web.cycles.conftest import NUM_TASKS, VERIFIER, MakeCycle, cycle_values, drive, task_rows
from tests.evsys_web.cycles.learner import Learner
from tests.evsys_web.cycles.test_pages import typed
from tests.fireworks_server import ACCOUNT, KEY, MODEL, FireworksServer, Request, fireworks_server

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
CREATED = r"/deployments$"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, settings: Settings, alice: User, project: Project) -> Iterator[FireworksServer]:
    settings.ALLOW_PRIVATE_URLS = True
    monkeypatch.setattr(serving_module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(fireworks._base_client, "INITIAL_RETRY_DELAY", 0.001)
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    with fireworks_server() as made:
        Learner(made)
        yield made


def there(server: FireworksServer, **serving: Any) -> dict[str, Any]:
    """What makes a cycle one on Fireworks."""
    return {
        "model": {"name": MODEL},
        "backend": {"kind": "fireworks", "params": {"base_url": server.url, "credential": "fireworks", "timeout_seconds": 60}},
        "training": {"kind": "fireworks_sft", "params": {"batch_size": 4, "poll_seconds": 0.02}},
        "serving": {"accept_billing": True, **serving},
    }


def made_of(server: FireworksServer) -> list[str]:
    """What each deployment served, in order."""
    return [str(each.body["baseModel"]) for each in server.serving.deployments.values()]


def tuned(server: FireworksServer) -> list[str]:
    return [name for name in server.models if name.startswith(f"accounts/{ACCOUNT}/")]


def test_it_goes_round_twice_gets_better_and_leaves_nothing_that_costs(
    server: FireworksServer,
    make_tasks: Callable[..., DatasetVersion],
    make_cycle: MakeCycle,
    alice: User,
    alice_client: Client,
    project: Project,
    tmp_path: Path,
) -> None:
    most_up: list[int] = []
    server.faults.append(lambda request: most_up.append(len(server.serving.up)))
    make_tasks("many", task_rows("many", 24))
    judge = {"dataset": "many", "verifier": VERIFIER}
    cycle = drive(make_cycle(rounds=2, judge=judge, **there(server, longest_hours=2)))
    assert (cycle.status, cycle.error, cycle.round_number) == (Status.COMPLETED, "", 2)
    first, second = tuned(server)
    assert made_of(server) == [MODEL, MODEL, first, first, second] and not server.serving.up and max(most_up) == 1
    bodies = [job.body for job in server.jobs.values()]
    assert [body.get("baseModel") for body in bodies] == [MODEL, None] and bodies[1]["warmStartFrom"] == first
    averages = [cycle.baseline.summary["avg"]["value"], *(round_.judged.summary["avg"]["value"] for round_ in cycle.rounds.all())]
    assert averages == pytest.approx([1 / 3, 2 / 3, 1])
    assert answer_of(cycle).sentence.startswith("Better after round 2: +66.7 points")
    page = alice_client.get(cycle.get_absolute_url()).content.decode()
    assert "Better after round 2" in page and "longest_hours: 2" in page and "Chat beside" not in page
    assert EvalEvent.objects.filter(message__contains="about $16.00 an hour").count() == 5
    assert EvalEvent.objects.filter(message__contains="was deleted.").count() == 5
    rows = [cycle, *cycle.events.all(), *EvalEvent.objects.all(), *TrainingRun.objects.all()]
    assert KEY not in serializers.serialize("json", rows)
    _it_goes_elsewhere_without_its_consent(alice_client, cycle, alice, project, tmp_path)


def _it_goes_elsewhere_without_its_consent(client: Client, cycle: Cycle, user: User, project: Project, folder: Path) -> None:
    form = client.get(f"/cycles/new?clone={cycle.pk}").content.decode()
    repeated = shown(form)
    assert (repeated["serving-accept_billing"], repeated["serving-longest_hours"]) == ("false", "2")
    zipped = b"".join(export_cycle(visible_cycle(user, cycle.pk)))
    assert "rounds/2/held_out.jsonl" in zipfile.ZipFile(io.BytesIO(zipped)).namelist()
    (folder / "cycle.zip").write_bytes(zipped)
    twin = import_cycle(user=user, project=project, path=folder / "cycle.zip")
    assert answer_of(twin).sentence == answer_of(cycle).sentence
    assert not twin.config["serving"]["accept_billing"] and twin.config["serving"]["longest_hours"] == 2
    (folder / "again.zip").write_bytes(b"".join(export_cycle(visible_cycle(user, twin.pk))))
    assert import_cycle(user=user, project=project, path=folder / "again.zip").rounds.count() == 2


def test_without_consent_every_door_refuses_at_the_field(
    server: FireworksServer,
    client: Client,
    alice_client: Client,
    alice_headers: dict[str, str],
    admin: User,
    tmp_path: Path,
    make_cycle: MakeCycle,
) -> None:
    values = there(server, accept_billing=False)
    with pytest.raises(ConfigError, match="3 at most") as refused:
        make_cycle(**values)
    assert refused.value.path == ("serving", "accept_billing")
    answer = client.post("/api/v1/cycles", cycle_values(**values), content_type="application/json", headers=alice_headers)
    assert answer.status_code == 422 and [each["field"] for each in answer.json()["errors"]] == ["serving.accept_billing"]
    path = tmp_path / "cycle.yaml"
    path.write_text(yaml.safe_dump(cycle_values(**values)))
    with pytest.raises(CommandError, match="Agree to that"):
        call_command("cycle", str(path), stdout=io.StringIO())
    form = alice_client.post("/cycles/new", on_the_form(server, alice_client))
    assert form.status_code == 422 and "Agree to that" in form.context["form"].settings["serving"].errors["accept_billing"][0]
    assert not Cycle.objects.exists() and not server.requests


def test_with_it_rest_and_the_command_launch_the_same(
    server: FireworksServer, client: Client, admin: User, tmp_path: Path
) -> None:
    for name in ("learn", "judge"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in task_rows(name)))
    sides = {name: {"path": f"{name}.jsonl", "verifier": VERIFIER} for name in ("learn", "judge")}
    store_credential(user=admin, project=admin.default_project(), name="fireworks", secret=KEY)
    path, out = tmp_path / "cycle.yaml", io.StringIO()
    path.write_text(yaml.safe_dump(cycle_values(**sides) | there(server)))
    call_command("cycle", str(path), "--here", "--json", stdout=out)
    found = json.loads(out.getvalue())
    assert (found["status"], found["round_number"]) == ("completed", 1) and "after round 1: +33.3 points" in found["answer"]
    assert found["config"]["serving"]["accept_billing"] is True and not server.serving.up


def on_the_form(server: FireworksServer, client: Client, **values: str) -> dict[str, str]:
    """What a browser sends after a job of Fireworks was chosen on the form as it is shown."""
    first = typed(client) | {"training": "fireworks_sft", "round-attempts": "2"}
    moved = shown(client.post("/cycles/new/settings", first).content.decode())
    sides = {name: str(pk) for name, pk in _sides()}
    params = {"backend-base_url": server.url, "backend-credential": "fireworks", "backend-timeout_seconds": "60"}
    return first | moved | sides | params | values


def _sides() -> list[tuple[str, int]]:
    return [(name.lower(), pk) for name, pk in Benchmark.objects.filter(name__in=("Learn", "Judge")).values_list("name", "pk")]


def shown(page: str) -> dict[str, str]:
    found = dict(re.findall(r'<input[^>]*?name="([^"]+)"[^>]*?value="([^"]*)"', page))
    for name, options in re.findall(r'<select name="([^"]+)".*?>(.*?)</select>', page, flags=re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', options)
        found[name] = chosen[1] if chosen else ""
    return found


@pytest.mark.usefixtures("learn", "judge")
def test_the_form_moves_there_says_what_it_costs_at_most_and_launches_what_was_agreed_to(
    server: FireworksServer, alice_client: Client, mallory: User, eager_tasks: None
) -> None:
    values = on_the_form(server, alice_client)
    assert values["backend"] == "fireworks" and values["model_name"].startswith("accounts/fireworks/models/")
    drawn = alice_client.post("/cycles/new/settings", values).content.decode()
    assert 'name="backend-credential"' in drawn and 'name="backend-tokenizer"' not in drawn
    values |= {"model_name": MODEL, "round-rounds": "1"}
    size = alice_client.post("/cycles/new/size", values).content.decode()
    assert "at most 3" in size and "ask what it would cost" in size and "NVIDIA_H100_80GB $8.00" in size
    assert "shut down costs that of an eval again." in size
    capped = alice_client.post("/cycles/new/size", values | {"serving-max_dollars_per_hour": "20"}).content.decode()
    assert "at most $240.00" in capped
    offer = alice_client.post("/cycles/new/offer", values).content.decode()
    assert "about $16.00 an hour" in offer and "at most is not known: 3 evals" in offer and not server.serving.deployments
    shape = {"serving-shape": re.findall(r"name (accounts/[^ ]+)\. What serving", offer)[0]}
    assert "at most $192.00: 3 evals" in alice_client.post("/cycles/new/offer", values | shape).content.decode()
    before = len(server.requests)
    assert signed_in(mallory).post("/cycles/new/offer", values).status_code == 200 and len(server.requests) == before
    assert "without a deployment" in alice_client.post("/cycles/new/offer", values | {"backend": "local"}).content.decode()
    answer = alice_client.post("/cycles/new", values | {"serving-accept_billing": "on"})
    cycle = Cycle.objects.get()
    assert answer["Location"] == cycle.get_absolute_url() and cycle.load_config().serving is not None
    back = shown(alice_client.post("/cycles/new/settings", values | {"backend": "local"}).content.decode())
    assert (back["training"], back["model_name"], "serving-longest_hours" in back) == ("sft", "starter", False)
    steps = alice_client.post("/cycles/new/settings", typed(alice_client) | {"backend": "fireworks"}).content.decode()
    assert shown(steps)["training"] == "sft" and 'name="backend-tokenizer"' in steps and "serving-longest_hours" in steps


def test_a_deployment_that_fails_in_the_second_round_costs_nothing_that_was_done(
    server: FireworksServer, make_cycle: MakeCycle, alice: User, alice_client: Client
) -> None:
    def break_the_fifth(request: Request) -> None:
        is_fifth = len(server.serving.deployments) == 4 and "deploymentId" in request.query
        server.serving.walk = ["CREATING", "FAILED"] if is_fifth else ["CREATING", "READY"]
        server.serving.message = "no capacity" if is_fifth else ""

    server.faults.append(break_the_fifth)
    cycle = drive(make_cycle(rounds=2, **there(server)))
    assert (cycle.status, cycle.stage, cycle.round_number) == (Status.FAILED, Stage.JUDGE, 2)
    assert cycle.error.startswith("Round 2, held-out eval: The deployment evsys-eval-") and not server.serving.up
    page = alice_client.get(cycle.get_absolute_url()).content.decode()
    assert "after round 1: +33.3 points" in answer_of(cycle).sentence and "Everything that was done is kept" in page
    server.faults.clear()
    server.serving.walk = ["CREATING", "READY"]
    resume_cycle(user=alice, cycle=cycle)
    assert drive(cycle).status == Status.COMPLETED and len(server.jobs) == 2
    assert made_of(server)[-2:] == [tuned(server)[1]] * 2 and not server.serving.up


class Clock:
    """The time, which can be made to jump."""

    def __init__(self) -> None:
        self.skipped, self.sleep, self.was_read = 0.0, time.sleep, threading.Event()

    def monotonic(self) -> float:
        if self.skipped:
            self.was_read.set()
        return time.monotonic() + self.skipped


def test_when_its_time_is_over_attempts_stay_and_the_cycle_says_so(
    server: FireworksServer, make_cycle: MakeCycle, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(serving_module, "time", clock)
    reply = server.serving.reply

    def late(messages: list[dict[str, Any]]) -> str:
        if server.count("POST", "/inference/") > 8:
            clock.skipped = 6000
            assert clock.was_read.wait(60)
        return reply(messages)

    server.serving.reply = late
    cycle = drive(make_cycle(concurrency=1, **there(server, longest_hours=1.5)))
    assert cycle.status == Status.FAILED and not server.serving.up
    assert cycle.error.startswith("Baseline eval: The deployment was up for 1.5 hours") and "Resume" in cycle.error
    kept = cycle.baseline.num_done
    assert 0 < kept < 3 * NUM_TASKS
    server.serving.reply = reply
    asked = server.count("POST", "/inference/")
    resume_cycle(user=alice, cycle=cycle)
    assert drive(cycle).status == Status.COMPLETED and not server.serving.up
    assert cycle.baseline.attempts.count() == 3 * NUM_TASKS and server.count("POST", "/inference/") > asked


def test_what_is_dearer_than_allowed_or_of_unknown_price_is_never_made(server: FireworksServer, make_cycle: MakeCycle) -> None:
    server.serving.accelerator = "MYSTERY"
    cycle = drive(make_cycle(**there(server, max_dollars_per_hour=100)))
    assert cycle.status == Status.FAILED and "whose price an hour is not known" in cycle.error
    assert "Nothing was made." in cycle.error and not server.serving.deployments


def test_a_stop_while_a_deployment_comes_removes_it_and_resume_goes_on(
    server: FireworksServer, make_cycle: MakeCycle, alice: User
) -> None:
    cycle = make_cycle(**there(server))
    server.serving.walk = ["CREATING"]

    def stop(request: Request) -> None:
        if request.method == "GET" and re.search(r"/deployments/[^/:]+$", request.path):
            server.faults.clear()
            stop_cycle(user=alice, cycle=Cycle.objects.get(pk=cycle.pk))
            connections.close_all()

    server.faults.append(stop)
    drive(cycle)
    assert (cycle.status, cycle.stage) == (Status.CANCELLED, Stage.BASELINE)
    assert len(server.serving.deployments) == 1 and not server.serving.up
    server.serving.walk = ["CREATING", "READY"]
    resume_cycle(user=alice, cycle=cycle)
    assert drive(cycle).status == Status.COMPLETED and not server.serving.up
