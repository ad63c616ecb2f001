"""What Fireworks trained is evaluated on a deployment of its own, which is always taken down again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fireworks._base_client
import pytest

import recipes
from recipes import serving as serving_module
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.evals.runner import EvalResult
from recipes.resources import RESOURCES_FILE, Resource, ResourceLog
from recipes.serving import DEPLOYMENT
from recipes.types import Task
from tests.fireworks_server import ACCOUNT, KEY, MODEL, FireworksServer, Request, fireworks_server
from tests.fireworks_serving import SHAPE
from tests.recipes.algorithms.managed import broken, failing, unheard

TUNED = f"accounts/{ACCOUNT}/models/evsys-7"
TASKS = [Task(str(n), [{"role": "user", "content": f"{n} + {n}?"}], answer=str(2 * n)) for n in range(3)]
DEPLOYMENTS, LOOK = r"/deployments$", r"/deployments/[^/:]+$"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FireworksServer]:
    """Under an SDK that tries again at once, as often as ever."""
    monkeypatch.setattr(fireworks._base_client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(serving_module, "POLL_SECONDS", 0.1)
    with fireworks_server() as made:
        made.models[TUNED] = {}
        made.serving.reply = doubled
        yield made


def doubled(messages: list[dict[str, Any]]) -> str:
    first = messages[-1]["content"][0]
    return str(2 * int(first)) if first.isdecimal() else "Hello."


class Told:
    """What an eval's reader is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __call__(self, level: str, message: str) -> None:
        self.events.append((level, message))

    def said(self, words: str) -> list[str]:
        return [level for level, message in self.events if words in message]


def config(server: FireworksServer, *, checkpoint: str | None = f"fireworks://{TUNED}", **serving: Any) -> EvalConfig:
    return EvalConfig.from_values(
        {
            "model": {"name": MODEL, "checkpoint": checkpoint},
            "backend": {"kind": "fireworks", "params": {"base_url": server.url, "timeout_seconds": 60, "outage_seconds": 120}},
            "serving": {"accept_billing": True, "ready_seconds": 120, **serving},
            "data": {"path": "unused.jsonl"},
            "verifier": {"kind": "numeric"},
            "attempts": 2,
        }
    )


def evaluated(server: FireworksServer, folder: Path, told: Told | None = None, *, key: str = KEY, **options: Any) -> EvalResult:
    made = options.pop("config", None) or config(server)
    return recipes.evaluate(made, tasks=TASKS, run_dir=folder, secrets={"backend_api_key": key}, report=told or Told(), **options)


def test_it_is_made_asked_and_deleted_and_its_price_is_told_first(server: FireworksServer, tmp_path: Path) -> None:
    told = Told()
    result = evaluated(server, tmp_path, told)
    assert (result.status, result.num_done, result.num_errors) == ("completed", 6, 0), result.error
    rows = [json.loads(line) for line in (tmp_path / "attempts.jsonl").read_text().splitlines()]
    assert all(row["is_correct"] for row in rows)
    made = [request for request in server.requests if request.method == "POST" and request.path.endswith("/deployments")]
    assert made[0].query == {"validateOnly": "true"} and made[1].query["deploymentId"].startswith("evsys-eval-")
    assert made[1].json == {
        "baseModel": TUNED,
        "deploymentShape": SHAPE,
        "displayName": made[1].query["deploymentId"],
        "minReplicaCount": 0,
        "maxReplicaCount": 1,
        "autoscalingPolicy": {"scaleToZeroWindow": "300s"},
    }
    assert told.said("2 × NVIDIA_H100_80GB per replica, billed per GPU-second while it is up: about $16.00 an hour") == ["info"]
    assert told.said("was deleted") == ["info"] and not server.serving.up and not ResourceLog(tmp_path).left()
    assert not [path for path in tmp_path.iterdir() if KEY in path.read_text()]


def test_it_is_written_down_before_it_is_made(server: FireworksServer, tmp_path: Path) -> None:
    seen: list[Resource] = []

    def look_into_the_folder(request: Request) -> None:
        if request.path.endswith("/deployments") and "deploymentId" in request.query:
            seen.extend(ResourceLog(tmp_path).left())

    server.faults.append(look_into_the_folder)
    evaluated(server, tmp_path)
    assert seen == [Resource(DEPLOYMENT, next(iter(server.serving.deployments)), ACCOUNT)]


def test_the_untouched_model_is_served_likewise(server: FireworksServer, tmp_path: Path) -> None:
    assert evaluated(server, tmp_path, config=config(server, checkpoint=None)).status == "completed"
    assert [each.body["baseModel"] for each in server.serving.deployments.values()] == [MODEL]


def test_nobody_pays_who_did_not_say_so(server: FireworksServer) -> None:
    with pytest.raises(ConfigError, match=r"serving\.accept_billing: true"):
        config(server, accept_billing=False)
    values = config(server).model_dump() | {"serving": None}
    with pytest.raises(ConfigError, match=r"serving\.accept_billing: true"):
        EvalConfig.from_values(values)
    elsewhere = {**values, "model": {"name": "starter"}, "backend": {"kind": "local"}, "serving": {"accept_billing": True}}
    with pytest.raises(ConfigError, match="leave it away"):
        EvalConfig.from_values(elsewhere)


def test_a_checkpoint_that_is_no_model_there_is_refused_before_anything_is_asked(server: FireworksServer) -> None:
    with pytest.raises(ConfigError, match="setting promote says"):
        config(server, checkpoint=f"fireworks://{ACCOUNT}/run-0123456789abcdef0123456789abcdef/final")


def test_a_model_that_no_shape_serves_costs_nothing(server: FireworksServer, tmp_path: Path) -> None:
    server.serving.shapes = []
    assert "no shape that serves" in (evaluated(server, tmp_path).error or "") and not server.serving.deployments


@pytest.mark.parametrize(
    ("most", "accelerator", "is_made"), [(16, "H100_80GB", True), (15.9, "H100_80GB", False), (99, "NEW", False)]
)
def test_one_that_costs_more_than_was_allowed_or_nobody_knows_what_is_not_made(
    server: FireworksServer, tmp_path: Path, most: float, accelerator: str, is_made: bool
) -> None:
    server.serving.accelerator = f"NVIDIA_{accelerator}"
    result = evaluated(server, tmp_path, config=config(server, max_dollars_per_hour=most))
    assert bool(server.serving.deployments) == is_made
    assert is_made or ("Nothing was made" in (result.error or "") and not (tmp_path / RESOURCES_FILE).exists())


def test_one_that_fails_is_told_in_its_words_and_removed(server: FireworksServer, tmp_path: Path) -> None:
    server.serving.walk, server.serving.message = ["CREATING", "FAILED"], "no capacity for H100"
    result = evaluated(server, tmp_path)
    assert result.status == "failed" and "no capacity for H100" in (result.error or "") and not server.serving.up
    assert not ResourceLog(tmp_path).left()


@pytest.mark.parametrize(
    ("walk", "num_deaf", "words"), [(["CREATING"], 0, "still CREATING after 1 seconds"), (["READY"], 10**6, "said nothing")]
)
def test_one_that_never_comes_is_given_up_and_removed(
    server: FireworksServer, tmp_path: Path, walk: list[str], num_deaf: int, words: str
) -> None:
    server.serving.walk, server.serving.num_deaf = walk, num_deaf
    result = evaluated(server, tmp_path, config=config(server, ready_seconds=1))
    assert words in (result.error or "") and not server.serving.up


@pytest.mark.parametrize(
    ("method", "pattern"), [("GET", r"/accounts$"), ("POST", ":match$"), ("POST", DEPLOYMENTS), ("GET", LOOK), ("DELETE", LOOK)]
)
def test_an_outage_at_any_question_is_waited_out(server: FireworksServer, tmp_path: Path, method: str, pattern: str) -> None:
    server.faults.append(broken(method, pattern, times=4, status=503))
    told = Told()
    assert evaluated(server, tmp_path, told).status == "completed" and len(server.serving.deployments) == 1
    assert told.said("It is asked again") == ["warning"] and not server.serving.up


def test_an_order_whose_answer_is_lost_is_one_order(server: FireworksServer, tmp_path: Path) -> None:
    heard = unheard(server, "POST", DEPLOYMENTS, times=4)
    server.faults.append(lambda request: heard(request) if "deploymentId" in request.query else None)
    assert evaluated(server, tmp_path).status == "completed"
    assert len(server.serving.deployments) == 1 and not server.serving.up


class Killed(BaseException):
    """No handler catches it, and nothing is done any more."""


def left_by_a_killed_worker(server: FireworksServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> EvalConfig:
    """It dies with its first attempt, one at a time."""
    slow = config(server).model_copy(update={"concurrency": 1})

    def die(result: Any) -> None:
        raise Killed

    with monkeypatch.context() as dead, pytest.raises(Killed):
        dead.setattr(serving_module.Deployed, "_leave", lambda self: None)
        evaluated(server, folder, config=slow, on_attempt=die)
    assert server.serving.up
    return slow


def test_a_killed_worker_is_followed_by_one_that_takes_up_the_same_deployment(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, told = left_by_a_killed_worker(server, tmp_path, monkeypatch), Told()
    assert evaluated(server, tmp_path, told, config=slow).status == "completed"
    assert told.said("Found the deployment") == ["info"]
    assert len(server.serving.deployments) == 1 and not server.serving.up


def test_one_that_is_left_when_all_is_done_is_removed(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = left_by_a_killed_worker(server, tmp_path, monkeypatch)
    done = {(task.task_id, attempt) for task in TASKS for attempt in range(2)}
    assert evaluated(server, tmp_path, config=slow, done=done).status == "completed"
    assert not server.serving.up and not ResourceLog(tmp_path).left()


def test_what_was_left_and_is_gone_is_made_anew(server: FireworksServer, tmp_path: Path) -> None:
    ResourceLog(tmp_path).plan(Resource(DEPLOYMENT, "evsys-eval-gone", ACCOUNT))
    assert evaluated(server, tmp_path).status == "completed" and not ResourceLog(tmp_path).left()


def test_a_key_of_another_account_makes_no_second_one(server: FireworksServer, tmp_path: Path) -> None:
    ResourceLog(tmp_path).plan(Resource(DEPLOYMENT, "evsys-eval-left", ACCOUNT))
    server.accounts = ["other"]
    assert f"lies in the account {ACCOUNT}" in (evaluated(server, tmp_path).error or "") and not server.serving.deployments


def test_one_that_may_not_be_deleted_is_scaled_down_and_stays_written_down(server: FireworksServer, tmp_path: Path) -> None:
    server.serving.keeps_what_was_asked = True
    told = Told()
    assert evaluated(server, tmp_path, told).status == "completed"
    assert told.said("scaled to no replica instead") == ["error"] and not server.serving.up
    assert [each.kind for each in ResourceLog(tmp_path).left()] == [DEPLOYMENT]


def test_a_stop_while_it_comes_removes_it(server: FireworksServer, tmp_path: Path) -> None:
    server.serving.walk = ["CREATING"]
    result = evaluated(server, tmp_path, should_stop=lambda: server.count("GET", LOOK) > 2)
    assert result.status == "cancelled" and len(server.serving.deployments) == 1 and not server.serving.up


def test_it_is_not_up_for_longer_than_was_allowed(server: FireworksServer, tmp_path: Path) -> None:
    result = evaluated(server, tmp_path, config=config(server, longest_hours=1e-9))
    assert result.status == "failed" and "as long as serving.longest_hours allows" in (result.error or "")
    assert not server.serving.up


def test_the_wait_for_it_counts_and_whoever_takes_it_up_has_what_is_left_of_its_time(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = left_by_a_killed_worker(server, tmp_path, monkeypatch)
    path = tmp_path / RESOURCES_FILE
    planned = json.loads(path.read_text())
    path.write_text(json.dumps(planned | {"at": "2026-01-01T00:00:00+00:00"}) + "\n")
    result = evaluated(server, tmp_path, config=slow)
    assert "as long as serving.longest_hours allows" in (result.error or "") and not server.serving.up
    assert evaluated(server, tmp_path, config=slow).status == "completed" and len(server.serving.deployments) == 2
    server.serving.walk = ["CREATING"]
    result = evaluated(server, tmp_path / "coming", config=config(server, longest_hours=1e-9))
    assert "as long as serving.longest_hours allows" in (result.error or "") and not server.serving.up


def test_a_finished_eval_makes_none(server: FireworksServer, tmp_path: Path) -> None:
    assert evaluated(server, tmp_path).status == "completed"
    asked = len(server.requests)
    assert evaluated(server, tmp_path).status == "completed" and len(server.requests) == asked


def test_a_wrong_key_is_told_and_nothing_is_made(server: FireworksServer, tmp_path: Path) -> None:
    result = evaluated(server, tmp_path, key="wrong")
    assert "Credentials" in (result.error or "") and not (tmp_path / RESOURCES_FILE).exists()


def test_without_a_folder_nothing_is_made(server: FireworksServer) -> None:
    result = recipes.evaluate(config(server), tasks=TASKS, secrets={"backend_api_key": KEY})
    assert "written down before it is made" in (result.error or "") and not server.requests


def test_an_inference_that_refuses_the_key_ends_at_once(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(failing("POST", "/inference/", 401, "invalid key"))
    assert "refuses the key" in (evaluated(server, tmp_path).error or "") and not server.serving.up
