"""What alice has, one of everything, and what has to be sent to change it: for the walk over every address."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from allauth.usersessions.models import UserSession
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.test import Client, override_settings

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.member_actions import invite
from evsys_web.accounts.models import ApiToken, Membership, Project, Role, User
from evsys_web.checkpoints.models import Export
from evsys_web.curation.actions import publish
from evsys_web.curation.models import Filter
from evsys_web.cycles.actions import launch_cycle
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import HubTransfer, StagedUpload
from evsys_web.evals.actions import create_benchmark
from evsys_web.evals.models import Benchmark, EvalRun
from evsys_web.notifications.models import Channel
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from evsys_web.sweeps.models import Sweep, SweepRun
from recipes.checkpoints import Manifest
from recipes.curation import CurationSettings
from recipes.cycle_config import CycleConfig
from recipes.types import Checkpoint as Saved
from tests.evsys_web.curation.conftest import BAND, add_attempts
from tests.evsys_web.evals.conftest import config_values, task_rows
from tests.evsys_web.runs.conftest import mock_config

CHAT = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}
ATTEMPT = {"task_id": "a", "attempt": 0, "messages": CHAT["messages"], "is_correct": True, "reward": 1.0}
SWEEP = {"matrix": {"axes": {"algorithm.params.learning_rate": [0.001, 0.002]}}}
NUMERIC = {"kind": "numeric"}


class World:
    """`keys`: what stands in an address for each parameter, or for the noun before it; `ended`: the same, of ended work."""

    def __init__(self, folder: Path) -> None:
        self.alice, self.bob, self.carol, self.mallory = (
            User.objects.create_user(name, password="a password") for name in ("alice", "bob", "carol", "mallory")
        )
        self.project = project = Project.objects.create_for(self.alice, name="Sums")
        Project.objects.create_for(self.mallory, name="Mallory's")
        for user, role in ((self.bob, Role.EDITOR), (self.carol, Role.VIEWER)):
            Membership.objects.create(project=project, user=user, role=role)
        self.folder, alice = folder, self.alice
        self.mine: dict[str, Any] = {"project": project, "created_by": alice}
        self.first, self.version, self.tasks, self.others = (
            import_dataset(user=alice, project=project, name=name, path=self.file(f"{name}.jsonl", rows)).version
            for name, rows in (("sums", [CHAT]), ("sums", [CHAT, CHAT, CHAT]), ("tasks", task_rows()), ("others", other_tasks()))
        )
        self.benchmark, self.judge = (
            create_benchmark(user=alice, project=project, name=name, dataset_version=version, verifier=NUMERIC)
            for name, version in (("learn", self.tasks), ("judge", self.others))
        )
        self.credential = store_credential(user=alice, project=project, name="a key", secret="sk-of-somebody-else")
        invited = invite(user=alice, project=project, role=Role.VIEWER)
        dave = Membership.objects.create(project=project, user=User.objects.create_user("dave"), role=Role.VIEWER)
        self.people = {"projects": project.pk, "members": dave.pk, "invitations": invited.invitation.pk}
        self.secret = invited.link.rstrip("/").rpartition("/")[2]
        seen = {"ip": "192.0.2.7", "session_key": "of-another-browser", "user_agent": "Firefox"}
        self.session = UserSession.objects.create(user=alice, **seen)
        self.keys = self._keys(Status.QUEUED)
        self.ended = self.keys | self._keys(Status.COMPLETED)

    def file(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.folder / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    def _keys(self, status: Status) -> dict[str, str]:
        run = TrainingRun.objects.create(
            name=f"a {status} run", status=status, config=mock_config(), dataset_version=self.version, **self.mine
        )
        checkpoint = saved(run)
        evaluated: EvalRun = EvalRun.objects.create(
            name=f"a {status} eval",
            status=status,
            benchmark=self.benchmark,
            dataset_version=self.tasks,
            config=config_values(),
            k=4,
            **self.mine,
        )
        add_attempts(evaluated, BAND)
        settings = CurationSettings(filter="0 < avg < 1")
        published = publish(
            user=self.alice, project=self.project, eval_runs=[evaluated], settings=settings, name=f"{status} rows"
        )
        sides = {side: {"benchmark": str(benchmark.pk)} for side, benchmark in self.sides.items()}
        config = CycleConfig.from_values({"model": {"name": "starter"}, **sides})
        cycle = launch_cycle(user=self.alice, project=self.project, config=config)
        type(cycle).objects.filter(pk=cycle.pk).update(status=status)
        export = Export.objects.create(checkpoint=checkpoint, destination="hub", repository="a/b", status=status, **self.mine)
        channel = Channel.objects.create(kind="webhook", target=f"https://example.org/{status}", **self.mine)
        staged = StagedUpload.objects.create(dataset_name="half", filename="half.jsonl", **self.mine)
        staged.file.save("upload", SimpleUploadedFile("half.jsonl", b'{"messages": 1}'))
        staged.errors_file.save("errors.csv", SimpleUploadedFile("errors.csv", b"line\n"))
        found = {
            "runs": run.pk,
            "checkpoints": checkpoint.pk,
            "datasets": self.version.dataset_id,
            "versions": self.version.pk,
            "staged": staged.pk,
            "transfers": HubTransfer.objects.create(direction="pull", repo_id="a/b", status="failed", **self.mine).pk,
            "tokens": ApiToken.objects.issue(self.alice, name="hers")[0].pk,
            "credentials": self.credential.pk,
            "benchmarks": self.benchmark.pk,
            "evals": evaluated.pk,
            "exports": export.pk,
            "curations": published.curation.pk,
            "cycles": cycle.pk,
            "filters": Filter.objects.create(name=f"a {status} filter", **self.mine).pk,
            "channels": channel.pk,
            "attempts": 0,
            "rows": 0,
            "position": 1,
        }
        of_rows = {"dataset_version": self.version, "dataset_reference": "sums@1"}
        sweep = Sweep.objects.create(name=f"a {status} sweep", config=SWEEP | mock_config(), **of_rows, **self.mine)
        SweepRun.objects.create(sweep=sweep, run=run, combination=0)
        found |= {"sweeps": sweep.pk, "limits": self.project.pk, "of-run": run.pk}
        found |= self.people | {"secret": self.secret, "reset": "MQ", "with": "a-token", "sessions": self.session.pk}
        found |= {"hub-transfers": found["transfers"], "notifications": channel.pk}
        return {key: str(value) for key, value in found.items()}

    @property
    def sides(self) -> dict[str, Benchmark]:
        return {"learn": self.benchmark, "judge": self.judge}

    def external(self) -> TrainingRun:
        run: TrainingRun = TrainingRun.objects.create(name="elsewhere", is_external=True, status=Status.RUNNING, **self.mine)
        return run

    def body(self, route: str) -> Mapping[str, Any]:
        """What a create needs to be understood, as keyword arguments of Django's test client; nothing for most."""
        project, evaluated = self.project.pk, [int(self.ended["evals"])]
        run = {"project": project, **mock_config()} | {"name": "another"}
        curation = {"eval_runs": evaluated, "settings": {"filter": "0 < avg < 1"}}
        cycle = {"model": {"name": "starter"}, **{side: {"benchmark": each.pk} for side, each in self.sides.items()}}
        eval_run = {"name": "another", "model": {"name": "starter"}, "benchmark": self.benchmark.pk}
        sent = {
            "api/v1/runs": run,
            "api/v1/runs/estimate": run,
            "api/v1/projects": {"name": "another"},
            "api/v1/projects/<int:project_id>/members/<int:member_id>": {"role": "editor"},
            "api/v1/projects/<int:project_id>/invitations": {"role": "viewer"},
            "api/v1/sweeps": run | SWEEP,
            "api/v1/queue/limits/<int:project_id>": {"max_running": 9, "max_waiting": 9},
            **{f"api/v1/queue/{noun}s/<int:{noun}_id>": {"priority": "low"} for noun in ("run", "eval", "export")},
            "api/v1/sweeps/estimate": run | SWEEP,
            "api/v1/runs/external": {"name": "elsewhere", "project": project},
            "api/v1/runs/<int:run_id>/log-batch": [{"step": 1, "values": {"train/loss": 1.0}}],
            "api/v1/runs/<int:run_id>/finish": {},
            "api/v1/runs/<int:run_id>/clone": {},
            "api/v1/evals": eval_run,
            "api/v1/evals/estimate": eval_run,
            "api/v1/benchmarks": {"name": "new", "project": project, "dataset": "tasks@1", "verifier": NUMERIC},
            "api/v1/curations": curation | {"name": "rows of the walk"},
            "api/v1/curations/preview": curation,
            "api/v1/filters": {"name": "band", "project": project, "settings": {"filter": "solved"}},
            "api/v1/cycles": {"project": project, **cycle},
            "api/v1/datasets": {"name": "empty", "project": project},
            "api/v1/credentials": {"name": "new", "secret": "sk-of-somebody-else", "project": project},
            "api/v1/credentials/<int:credential_id>/test": {},
            "api/v1/notifications": {"kind": "webhook", "target": "https://example.org/new", "project": project},
            "api/v1/notifications/<int:channel_id>": {"is_on": False},
            "api/v1/hub-transfers/push": {"version": self.version.pk, "repo_id": "a/b", "credential": "a key"},
            "api/v1/hub-transfers/pull": {"repo_id": "a/b", "project": project},
            "api/v1/checkpoints/<int:checkpoint_id>/exports": {"destination": "hub", "repository": "a/b", "credential": "a key"},
            "api/v1/checkpoints/<int:checkpoint_id>/chat": {"prompt": "1 + 1?"},
        }
        if route in sent:
            return {"data": json.dumps(sent[route]), "content_type": "application/json"}
        if route == "api/v1/datasets/<int:dataset_id>/versions":
            return {"data": json.dumps([CHAT, CHAT]), "content_type": "application/json"}
        if route in {"api/v1/evals/import", "api/v1/cycles/import"}:
            return {"data": {"file": jsonl(ATTEMPT)}}
        return self._form(route)

    def query(self, route: str) -> str:
        if route in {"api/v1/evals/import", "api/v1/cycles/import"}:
            return f"?project={self.project.pk}"
        return f"?against={self.first.pk}" if route == "api/v1/datasets/versions/<int:version_id>/diff" else ""

    def _form(self, route: str) -> Mapping[str, Any]:
        """What a person types, where a page is to make or change something."""
        project = self.project.pk
        workbench = {"eval": self.ended["evals"], "filter": "0 < avg < 1", "name": "rows of the page", "filter_name": "page"}
        typed: dict[str, dict[str, Any]] = {
            "accounts/": {"first_name": "Alice", "last_name": "", "email": "alice@example.org", "password": "a password"},
            "accounts/projects/new": {"name": "typed"},
            "accounts/projects/<int:pk>/invitations/": {"role": "viewer"},
            "accounts/projects/<int:pk>/members/<int:member_pk>/role": {"role": "editor"},
            "accounts/tokens/": {"name": "new", "scope": "read", "expiry": "30"},
            "accounts/credentials/": {"project": project, "name": "new", "kind": "hub", "secret": "sk-of-somebody-else"},
            "datasets/upload": {
                "project": project,
                "name": "typed",
                "file": SimpleUploadedFile("a.jsonl", json.dumps(CHAT).encode()),
            },
            "datasets/hub": {"project": project, "repo_id": "a/b"},
            "datasets/staged/<uuid:pk>": {"action": "preview"},
            "datasets/versions/<int:pk>/publish": {"repo_id": "a/b", "credential": self.credential.pk, "format": "jsonl"},
            "queue/limits/<int:pk>": {"max_running": 9, "max_waiting": 9},
            **{f"queue/{noun}/<int:pk>/move": {"priority": "low"} for noun in ("runs", "evals", "exports")},
            "evals/import": {"project": project, "file": jsonl(ATTEMPT)},
            "curation/new": workbench,
            "curation/filters": workbench,
            "notifications/": {"kind": "webhook", "project": project, "target": "https://example.org/typed", "events": "failed"},
            "notifications/channels/<int:pk>/": {"events": "failed"},
            "runs/checkpoints/<int:pk>/push": {"repository": "a/b", "credential": self.credential.pk, "weights": "adapter"},
        }
        if route in {"runs/new", "evals/new", "cycles/new"}:
            client = Client()
            client.force_login(self.alice)
            return {"data": typed_in(client, f"/{route}")}
        return {"data": typed.get(route, {})}


def jsonl(row: dict[str, Any]) -> SimpleUploadedFile:
    return SimpleUploadedFile("rows.jsonl", json.dumps(row).encode())


def other_tasks() -> list[dict[str, Any]]:
    return [
        {"task_id": f"double-{n}", "messages": [{"role": "user", "content": f"Twice {n}?"}], "answer": 2 * n} for n in range(6)
    ]


def saved(run: TrainingRun) -> Checkpoint:
    """With an adapter's files, as a run leaves them."""
    folder = run.output_dir / "checkpoints" / "final"
    uris = {}
    for part, file in (("sampler", "adapter_model.safetensors"), ("state", "state.safetensors")):
        (folder / part).mkdir(parents=True)
        (folder / part / file).write_bytes(b"weights")
        uris[f"{part}_uri"] = str(folder / part)
    (folder / "sampler" / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": "starter"}))
    Manifest(run.output_dir).append(Saved("final", 1, uris["state_uri"], uris["sampler_uri"]))
    checkpoint: Checkpoint = Checkpoint.objects.create(run=run, name="final", step=1, seq=1, **uris)
    return checkpoint


def typed_in(client: Client, address: str) -> dict[str, str]:
    """What a browser would send back of the form as it is shown."""
    page = client.get(address).content.decode()
    found = dict(re.findall(r'<input[^>]*?name="([^"]+)"[^>]*?value="([^"]*)"', page))
    for name, options in re.findall(r'<select name="([^"]+)".*?>(.*?)</select>', page, flags=re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', options)
        found[name] = chosen[1] if chosen else ""
    return {name: value for name, value in found.items() if name != "csrfmiddlewaretoken"}


@pytest.fixture(scope="module")
def world(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once, in a transaction around those of the tests."""
    folder = tmp_path_factory.mktemp("world")
    with django_db_blocker.unblock(), override_settings(RUNS_DIR=folder / "runs"), transaction.atomic():
        yield World(folder)
        transaction.set_rollback(True)
