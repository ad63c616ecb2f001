"""Secrets planted wherever one can be given, used by everything that uses one, on servers that say them aloud; then looked for in
all that is stored, logged, sent to workers, exported and shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from celery import Task
from django.apps import apps
from django.test import Client
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project, User
from evsys_web.encryption import Unsaid, unseal
from evsys_web.evals.actions import create_benchmark
from evsys_web.notifications.models import Channel
from evsys_web.notifications.sweeping import sweep
from tests.conftest import signed_in
from tests.evsys_web.notifications.receiver import receiver
from tests.hub_server import hub_server
from tests.recipes.chat_server import Answer, chat_server, refusal
from tests.recipes.tinker_stack import fake_tinker

pytestmark = pytest.mark.django_db(transaction=True)
SECRETS = {kind: f"tml-planted-{kind}-4711-0815-marker" for kind in ("endpoint", "tinker", "hub")}
TASKS = [{"task_id": "a", "messages": [{"role": "user", "content": "1 + 1?"}], "answer": 2}]
CHATS = [{"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}]


@pytest.fixture
def sent_to_workers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every message as it goes to the broker."""
    messages: list[str] = []
    send = Task.apply_async

    def record(task: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        messages.append(f"{task.name} {args!r} {kwargs!r} {options!r}")
        return send(task, args, kwargs, **options)

    monkeypatch.setattr(Task, "apply_async", record)
    return messages


class Caller:
    """alice by REST; keeps every answer."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers, self.answers, self.keys = headers, list[str](), count()

    def post(self, path: str, body: Any) -> Any:
        headers = self.headers | {"Idempotency-Key": f"key {next(self.keys)}"}  # so that answers are kept
        sent = {"data": json.dumps(body), "content_type": "application/json", "headers": headers}
        answer = Client().post(f"/api/v1{path}", **sent)
        assert answer.status_code in {200, 201, 202}, answer.content
        self.answers.append(answer.content.decode())
        return answer.json()

    def get(self, path: str) -> str:
        answer = Client().get(f"/api/v1{path}", headers=self.headers)
        assert answer.status_code == 200, path
        self.answers.append(b"".join(answer).decode() if answer.streaming else answer.content.decode())
        return self.answers[-1]


def test_a_secret_that_was_given_is_found_nowhere(
    alice: User,
    project: Project,
    admin: User,
    alice_headers: dict[str, str],
    eager_tasks: None,
    sent_to_workers: list[str],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings.RUNS_DIR = tmp_path / "runs"
    caller = Caller(alice_headers)
    for kind, secret in SECRETS.items():
        caller.post("/credentials", {"name": kind, "secret": secret})
    for name, rows in (("tasks", TASKS), ("chats", CHATS)):
        dataset = caller.post("/datasets", {"name": name})["id"]
        caller.post(f"/datasets/{dataset}/versions", rows)
    with receiver(200) as hears:
        shown_once = caller.post("/notifications", {"kind": "webhook", "target": hears.url, "events": ["failed", "finished"]})
        caller.answers.pop()  # the one place where it may stand
        used = evaluated(caller) | trained(caller) | pulled(caller, monkeypatch)
        sweep()
        assert hears.wait_for(1)
    webhook_secret = unseal(Channel.objects.get().sealed_secret)
    assert used == set(SECRETS), "each key was sent where it belongs"
    assert webhook_secret in json.dumps(shown_once)

    token = alice_headers["Authorization"].removeprefix("Bearer ")
    secrets = [*SECRETS.values(), webhook_secret, token]
    found = [
        f"{secret[:16]}… in {place}"
        for place, text in places(caller, alice, admin, sent_to_workers, caplog, settings)
        for secret in secrets
        if secret in text
    ]
    assert found == []


def evaluated(caller: Caller) -> set[str]:
    """An eval on a server that repeats the key which it was given."""

    def blab(request: dict[str, Any], number: int) -> Answer:
        return refusal(400, f"Incorrect API key provided: {SECRETS['endpoint']}")

    with chat_server(blab) as server:
        where = {"base_url": server.base_url, "model": "m", "max_retries": 0, "timeout_seconds": 60}
        project = Project.objects.get(name="Sums")
        version = project.datasets.get(name="tasks").versions.get()
        benchmark = create_benchmark(
            user=project.memberships.first().user,
            project=project,
            name="b",
            dataset_version=version,
            verifier={"kind": "numeric"},
        )
        caller.post("/evals", {"name": "e", "endpoint": {**where, "credential": "endpoint"}, "benchmark": benchmark.pk})
        sent = {key for key in server.keys if key}
    return {kind for kind, secret in SECRETS.items() if any(secret in key for key in sent)}


def trained(caller: Caller) -> set[str]:
    """A run on a Tinker-compatible server that says the key aloud."""
    with fake_tinker(lambda endpoint, body, before: (403, {"detail": f"bad key {SECRETS['tinker']}"})) as (url, fake):
        caller.post(
            "/runs",
            {
                "name": "r",
                "model": {"name": "starter"},
                "data": {"dataset": "chats@1"},
                "algorithm": {"kind": "sft", "params": {}},
                "backend": {"kind": "tinker", "params": {"base_url": url, "credential": "tinker"}},
            },
        )
        return {"tinker"} if any(SECRETS["tinker"] in (key or "") for key in fake.keys) else set()


def pulled(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with hub_server(monkeypatch) as hub:
        caller.post("/hub-transfers/pull", {"repo_id": "alice/rows", "credential": "hub"})
        return {"hub"} if any(SECRETS["hub"] in (token or "") for token in hub.tokens) else set()


def places(
    caller: Caller, alice: User, admin: User, sent: list[str], caplog: pytest.LogCaptureFixture, settings: Settings
) -> Iterator[tuple[str, str]]:
    """Where it must not be, and what stands there."""
    for model in apps.get_models():
        for row in model._default_manager.values():
            yield f"the table {model._meta.db_table}", str(row)
    assert "unsaid" in settings.LOGGING["handlers"]["console"]["filters"]
    for record in caplog.records:
        Unsaid().filter(record)
        yield f"the log of {record.name}", f"{record.getMessage()} {record.exc_text or ''}"
    yield "what workers are sent", "\n".join(sent)
    for path in [*Path(settings.RUNS_DIR).rglob("*"), *(settings.HOME / "files").rglob("*")]:
        if path.is_file():
            yield f"the file {path}", path.read_bytes().decode(errors="replace")
    run, evaluated = apps.get_model("runs.TrainingRun").objects.get(), apps.get_model("evals.EvalRun").objects.get()
    for part in (f"/runs/{run.pk}", f"/evals/{evaluated.pk}"):
        for what in ("", "/events", "/config.yaml"):
            caller.get(part + what)
    for part in ("/credentials", "/notifications", "/hub-transfers", f"/evals/{evaluated.pk}/tasks/1/attempts"):
        caller.get(part)
    yield "an answer of the API", "\n".join(caller.answers)
    pages = [
        *("/", f"/runs/{run.pk}/", f"/runs/{run.pk}/yaml", f"/evals/{evaluated.pk}/", f"/evals/{evaluated.pk}/tasks/1"),
        *("/accounts/credentials/", "/accounts/tokens/", "/notifications/", "/datasets/hub"),
    ]
    for page in pages:
        yield f"the page {page}", signed_in(alice).get(page).content.decode()
    for name, rows in (
        ("accounts_backendcredential", "accounts.BackendCredential"),
        ("notifications_channel", "notifications.Channel"),
    ):
        for row in apps.get_model(rows).objects.all():
            page = f"/admin/{name.replace('_', '/')}/{row.pk}/change/"
            yield f"the page {page}", signed_in(admin).get(page).content.decode()
