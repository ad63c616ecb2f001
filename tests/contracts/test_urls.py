"""Deny by default: every address of the product, found by walking the URL table, refuses whoever is not signed in, and whoever is
signed in but has no business there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.files.base import ContentFile
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from evsys_web.accounts.models import ApiToken, BackendCredential, Project, User
from evsys_web.checkpoints.models import Export
from evsys_web.curation.models import Curation, Filter
from evsys_web.cycles.models import Cycle
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import DatasetVersion, HubTransfer, StagedUpload
from evsys_web.evals.models import Benchmark, EvalRun, EvalTask
from evsys_web.notifications.models import Channel
from evsys_web.runs.models import Checkpoint, QueueLimits, Status, TrainingRun
from evsys_web.sweeps.models import Sweep, SweepRun

OPEN_TO_ALL = {"accounts/login/", "health/live", "health/ready", "api/", "api/docs", "api/openapi.json", "admin/login/"}
ANSWERS_ANYBODY_WITH_NOTHING = {"accounts/logout/", "admin/logout/", "admin/jsi18n/"}
METHODS = ("get", "post", "put", "patch", "delete")
ROW = b'{"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}\n'


@pytest.fixture
def keys(alice: User, project: Project, tmp_path: Path) -> dict[str, str]:
    """What alice owns, under the name by which a route asks for it: the parameter's own, or the noun before it."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROW)
    version = import_dataset(user=alice, project=project, name="sums", path=path).version
    staged = StagedUpload.objects.create(project=project, created_by=alice, dataset_name="half", filename="half.csv")
    staged.file.save("upload", ContentFile(b"a,b\n1,2\n"))
    run = TrainingRun.objects.create(project=project, created_by=alice, name="secret run", status=Status.QUEUED)
    checkpoint = Checkpoint.objects.create(run=run, name="step-1", step=1, seq=1)
    export = Export.objects.create(checkpoint=checkpoint, project=project, destination="download", status=Status.QUEUED)
    benchmark = Benchmark.objects.create(project=project, name="secret benchmark", dataset_version=version)
    eval_run = EvalRun.objects.create(project=project, name="secret eval", benchmark=benchmark, status=Status.QUEUED)
    task = EvalTask.objects.create(eval_run=eval_run, position=1, task_id="secret task")
    token, _ = ApiToken.objects.issue(alice, name="hers")
    credential = BackendCredential.objects.create(project=project, name="secret credential", sealed="…")
    curation = Curation.objects.create(project=project, name="secret curation", dataset_version=version)
    saved = Filter.objects.create(project=project, name="secret filter")
    cycle = Cycle.objects.create(project=project, name="secret cycle", status=Status.QUEUED)
    sweep = Sweep.objects.create(project=project, name="secret sweep")
    SweepRun.objects.create(sweep=sweep, run=run, combination=0)
    channel = Channel.objects.create(project=project, kind="webhook", target="https://example.org/secret")
    transfer = HubTransfer.objects.create(project=project, created_by=alice, direction="pull", repo_id="secret/rows")
    nouns = {
        "runs": run.pk,
        "checkpoints": checkpoint.pk,
        "datasets": version.dataset_id,
        "versions": version.pk,
        "staged": staged.pk,
        "transfers": transfer.pk,
        "hub-transfers": transfer.pk,
        "tokens": token.pk,
        "credentials": credential.pk,
        "benchmarks": benchmark.pk,
        "evals": eval_run.pk,
        "exports": export.pk,
        "curations": curation.pk,
        "cycles": cycle.pk,
        "sweeps": sweep.pk,
        "limits": project.pk,
        "of-run": run.pk,
        "filters": saved.pk,
        "attempts": 0,
        "rows": 0,
        "position": task.position,
        "channels": channel.pk,
        "notifications": channel.pk,
    }
    return {key: str(value) for key, value in nouns.items()} | {"number": str(version.number), "name": checkpoint.name}


def routes(patterns: list[URLPattern | URLResolver] | None = None, prefix: str = "") -> Iterator[str]:
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern).removeprefix("^").removesuffix("$")
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, route)
        elif not route.startswith("admin/") or route in {"admin/", "admin/runs/trainingrun/"}:
            yield route  # of the stock admin two stand for all


ALL = sorted(set(routes()))
OF_SOMEBODY = [route for route in ALL if "<" in route]


def address(route: str, keys: dict[str, str]) -> str:
    """The route with alice's own keys filled in."""

    def key(match: re.Match[str]) -> str:
        return keys[match["name"] if match["name"] in keys else match["noun"]]

    return "/" + re.sub(r"(?P<noun>[\w-]+)/<(?:\w+:)?(?P<name>\w+)>", lambda match: f"{match['noun']}/{key(match)}", route)


def request(client: Client, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    body = {} if method == "get" else {"data": "{}", "content_type": "application/json"}
    response = getattr(client, method)(path, headers=headers, **body)
    return response.status_code, response.headers.get("Location", "")


@pytest.mark.parametrize("route", [route for route in ALL if route not in OPEN_TO_ALL | ANSWERS_ANYBODY_WITH_NOTHING])
def test_the_anonymous_are_refused(client: Client, keys: dict[str, str], route: str) -> None:
    path = address(route, keys)
    for method in METHODS:
        status, location = request(client, method, path, {})
        if route.startswith("api/"):
            assert status in {401, 405}, f"{method} {path} answered {status}"
        else:
            assert status == 302 and "login/" in location, f"{method} {path} answered {status}"


@pytest.mark.parametrize("route", OF_SOMEBODY)
def test_mallory_finds_nothing_of_alices(
    mallory_client: Client, mallory_headers: dict[str, str], keys: dict[str, str], route: str
) -> None:
    path = address(route, keys)
    refusals = {404, 405}
    for method in METHODS:
        status, _ = request(mallory_client, method, path, mallory_headers if route.startswith("api/") else {})
        # A body that is wrong in itself may be said to be wrong before anything is looked up.
        allowed = refusals | {422, 400} if route.startswith("api/") and method != "get" else refusals
        assert status in allowed, f"{method} {path} answered {status}"
    assert not TrainingRun.objects.exclude(status=Status.QUEUED).exists()
    assert TrainingRun.objects.count() == 1
    assert [run.status for run in EvalRun.objects.all()] == [Status.QUEUED]
    assert [cycle.status for cycle in Cycle.objects.all()] == [Status.QUEUED]
    assert Benchmark.objects.count() == 1
    assert Channel.objects.on().count() == 1
    assert Sweep.objects.count() == 1
    assert not QueueLimits.objects.exists()
    assert DatasetVersion.objects.count() == 1
    assert Curation.objects.count() == 1 and Filter.objects.count() == 1
    assert ApiToken.objects.usable().filter(pk=keys["tokens"]).exists()


def test_the_walk_sees_the_whole_product() -> None:
    starts = {"accounts", "admin", "api", "curation", "cycles", "datasets", "evals", "health", "notifications", "runs"}
    assert starts <= {route.partition("/")[0] for route in ALL}
