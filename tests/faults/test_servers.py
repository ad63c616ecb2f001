"""A run, an eval and a cycle on PostgreSQL and Redis, while the web process, the broker and the database are killed around them.

Nothing here depends on speed: the run has more steps than it can take, the eval's server holds its answers back, the cycle trains
on a backend that takes no further step until it is told to, and a publish meets a table that is locked. What dies, dies in the
middle of them.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from evsys_web.celery import app
from evsys_web.curation.models import Curation
from tests.faults.held import site as site
from tests.faults.servers import Postgres, Redis, are_installed
from tests.faults.servers import broker as broker
from tests.faults.servers import database as database
from tests.recipes.chat_server import Answer, ChatServer, chat_server, completion
from tests.stack import Stack

pytestmark = [
    pytest.mark.once,  # its servers are its own
    pytest.mark.timeout(900),
    pytest.mark.skipif(not are_installed(), reason="needs PostgreSQL and Redis: apt-get install postgresql redis-server"),
]
LONG, SHORT = 100_000, 5
"""Steps. The long run cannot be over before it is stopped, however slow the machine: what dies, dies in its middle."""
CYCLE_STEPS = 12
AWAY_SECONDS = 60.0
"""How long there is no broker at least."""
NUM_AT_ONCE, NUM_ANSWERED = 3, 6
JSONL = {"Content-Type": "application/jsonl"}
ENDED = ("completed", "failed", "crashed", "cancelled")


def config(steps: int) -> dict[str, Any]:
    return {
        "name": "survivor",
        "data": {"dataset": "starter-sums@1"},
        "algorithm": {"kind": "mock_sft", "params": {"max_steps": steps, "save_every": 20, "step_seconds": 0.1}},
        "backend": {"kind": "mock"},
    }


def eval_config(server: ChatServer, *, tasks: int) -> dict[str, Any]:
    endpoint = {"base_url": server.base_url, "model": "adder", "max_retries": 0, "timeout_seconds": 600}
    return {"benchmark": 1, "endpoint": endpoint, "attempts": 1, "max_tasks": tasks, "concurrency": NUM_AT_ONCE}


def cycle_config() -> dict[str, Any]:
    return {
        "name": "around",
        "backend": {"kind": "held_mock"},
        **{side: {"dataset": f"{side}@1", "verifier": {"kind": "contains"}} for side in ("learn", "judge")},
        "rounds": 1,
        "attempts": 3,
        "sampling": {"max_tokens": 60},
        "training": {"kind": "sft", "params": {"learning_rate": 0.05, "max_steps": CYCLE_STEPS, "batch_size": 8}},
    }


@pytest.fixture
def grown(tmp_path: Path, site: Path, database: Postgres, broker: Redis) -> Iterator[Stack]:
    """Which does a run, a cycle's training and an eval at a time."""
    settings = {"EVSYS_TRAINING_CONCURRENCY": "2", "EVSYS_EVALS_CONCURRENCY": "1", "PYTHONPATH": str(site)}
    grown = Stack(tmp_path / "home", DATABASE_URL=database.url, EVSYS_TEST_BROKER_URL=broker.url, **settings)
    try:
        grown.start()
        yield grown
    finally:
        grown.stop()


@pytest.fixture
def release() -> Iterator[Event]:
    """Once set, the server of the eval answers everything; until then it holds back what comes after NUM_ANSWERED."""
    release = Event()
    yield release
    release.set()


@pytest.fixture
def server(release: Event) -> Iterator[ChatServer]:
    def hold(request: dict[str, Any], number: int) -> Answer:
        if number >= NUM_ANSWERED:
            release.wait(600)
        return completion(["4"] * request.get("n", 1))

    with chat_server(hold) as server:
        yield server


def asked(api: httpx.Client, path: str) -> Any:
    """The answer, or None while there is none."""
    try:
        response = api.get(path)
    except httpx.HTTPError:
        return None
    return response.json() if response.status_code == 200 else None


def post(api: httpx.Client, path: str, **sent: Any) -> Any:
    answer = api.post(path, **sent)
    assert answer.is_success, f"{path}: {answer.text}"
    return answer.json()


def reach(grown: Stack, api: httpx.Client, run: int, step: int) -> None:
    grown.wait_for(lambda: (asked(api, f"/runs/{run}") or {}).get("step", 0) >= step)


def web_process(grown: Stack) -> psutil.Process:
    assert grown._process is not None
    return next(child for child in psutil.Process(grown._process.pid).children() if "uvicorn" in child.cmdline())


def begin_cycle(grown: Stack, api: httpx.Client) -> tuple[int, int]:
    """Numbers of the cycle and of its training, which has taken a step."""
    for side in ("learn", "judge"):
        messages = [[{"role": "user", "content": f"{side} {n}"}] for n in range(6)]
        tasks = [{"task_id": f"{side}-{n}", "messages": each, "answer": "e"} for n, each in enumerate(messages)]
        dataset = post(api, "/datasets", json={"name": side})["id"]
        rows = "\n".join(json.dumps(task) for task in tasks)
        post(api, f"/datasets/{dataset}/versions", content=rows, headers=JSONL)
    cycle = post(api, "/cycles", json=cycle_config())["id"]

    def training() -> Any:
        found = asked(api, f"/cycles/{cycle}")
        assert not found or found["status"] not in ENDED, found
        return found and found["current_run_id"]

    run = grown.wait_for(training)
    reach(grown, api, run, 1)
    return cycle, run


@pytest.mark.fault(
    "kill -9 of the web process in the middle of a run, an eval, a cycle and a publish",
    "The first three go on; nothing is published, and asked again it is. The pages are back within seconds.",
    kills={"web process"},
    during={"run", "eval", "cycle", "publish"},
)
@pytest.mark.fault(
    "kill -9 of the broker, away for a minute in the middle of a run, an eval and a cycle; meanwhile a publish, and launches of "
    "another run and eval",
    "Run and eval go on, can be stopped and end; the rows are there; the cycle waits behind its part; the launches are accepted. "
    "What waited begins some seconds after the broker's return.",
    kills={"broker"},
    during={"run", "eval", "cycle", "publish"},
)
@pytest.mark.fault(
    "kill -9 of PostgreSQL, the database, in the middle of a run, an eval and a cycle",
    "Steps and attempts wait in the worker; all go on when it is back, none lost or doubled.",
    kills={"database"},
    during={"run", "eval", "cycle"},
)
def test_all_servers_die_around_a_run_an_eval_and_a_cycle_and_nothing_is_lost_or_doubled(
    grown: Stack, site: Path, database: Postgres, broker: Redis, server: ChatServer, release: Event
) -> None:
    with grown.api() as api:
        first = post(api, "/runs", json=config(LONG))["id"]
        reach(grown, api, first, 2)
        cycle, training = begin_cycle(grown, api)
        eval_run = post(api, "/evals", json=eval_config(server, tasks=20))["id"]
        grown.wait_for(lambda: len(server.requests) == NUM_ANSWERED + NUM_AT_ONCE)

        kill_in_mid_publish(grown, api)
        reach(grown, api, first, asked_for_sure(grown, api, f"/runs/{first}")["step"] + 2)
        broker.kill()
        killed_at = time.monotonic()
        database.kill()
        time.sleep(2)
        database.start()
        assert asked_for_sure(grown, api, f"/runs/{training}")["status"] == "running", "it was to die in mid training"
        (site / "go").touch()

        second = grown.wait_for(lambda: launched(api, "/runs", config(SHORT)))
        later = grown.wait_for(lambda: launched(api, "/evals", eval_config(server, tasks=4)))
        publish(api, "while there is no broker", import_attempts(api, "elsewhere"))
        reach(grown, api, first, asked_for_sure(grown, api, f"/runs/{first}")["step"] + 50)
        release.set()
        all_attempts_are_there(ended(grown, api, f"/evals/{eval_run}", "completed"), api, 20)
        grown.wait_for(lambda: stop(api, first))
        steps_are_there(ended(grown, api, f"/runs/{first}", "cancelled"), api)
        assert ended(grown, api, f"/runs/{training}", "completed")["attempt"] == 1
        waiting = [asked_for_sure(grown, api, path)["status"] for path in (f"/runs/{second}", f"/evals/{later}")]
        assert waiting == ["queued", "queued"] and asked_for_sure(grown, api, f"/cycles/{cycle}")["stage"] == "train"

        time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - killed_at)))
        broker.start()
        assert steps_are_there(ended(grown, api, f"/runs/{second}", "completed"), api) == SHORT
        all_attempts_are_there(ended(grown, api, f"/evals/{later}", "completed"), api, 4)
        done = ended(grown, api, f"/cycles/{cycle}", "completed")
        assert done["reason"] == "rounds" and [part["run_id"] for part in done["rounds"]] == [training]
        assert steps_are_there(asked_for_sure(grown, api, f"/runs/{training}"), api) == CYCLE_STEPS
        for part in (done["baseline_id"], done["rounds"][0]["eval_id"], done["rounds"][0]["judged_id"]):
            all_attempts_are_there(asked_for_sure(grown, api, f"/evals/{part}"), api, 18)


def asked_for_sure(grown: Stack, api: httpx.Client, path: str) -> Any:
    return grown.wait_for(lambda: asked(api, path))


def launched(api: httpx.Client, path: str, values: dict[str, Any]) -> int | None:
    """Its number; None where nobody answered, and so nothing was launched: a key makes sure of that."""
    try:
        answer = api.post(path, json=values, headers={"Idempotency-Key": path})
    except httpx.HTTPError:
        return None
    assert answer.status_code < 400 or answer.status_code >= 500, answer.text
    return int(answer.json()["id"]) if answer.is_success else None


def import_attempts(api: httpx.Client, name: str) -> int:
    """Made elsewhere, so that no worker is needed for them."""
    said = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    attempts = [{"task_id": name, "attempt": n, "is_correct": bool(n), "reward": n, "messages": said} for n in (0, 1)]
    lines = "\n".join(json.dumps(attempt) for attempt in attempts)
    asked = {"name": name, "filename": "attempts.jsonl"}
    return int(post(api, "/evals/import", params=asked, content=lines, headers=JSONL)["id"])


def publish(api: httpx.Client, name: str, eval_run: int) -> None:
    made = post(api, "/curations", json={"eval_runs": [eval_run], "name": name})
    assert made["created"], made


def kill_in_mid_publish(grown: Stack, api: httpx.Client) -> None:
    """The web process, while it waits for a lock to write that rows are published. Asked again, it publishes them."""
    name = "while the web process dies"
    eval_run, table = import_attempts(api, name), Curation._meta.db_table
    locks = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with ThreadPoolExecutor(1) as beside, psycopg.connect(grown.environment["DATABASE_URL"]) as other:
        other.execute(f"LOCK TABLE {table} IN SHARE MODE")
        publishing = beside.submit(publish, api, name, eval_run)
        grown.wait_for(lambda: other.execute(locks, [table]).fetchone() == (1,))
        web_process(grown).kill()
        assert isinstance(publishing.exception(60), httpx.HTTPError)
    assert name not in [each["name"] for each in asked_for_sure(grown, api, "/curations")["items"]]
    publish(api, name, eval_run)


def stop(api: httpx.Client, run: int) -> bool:
    """Whether it was heard."""
    try:
        return api.post(f"/runs/{run}/stop").is_success
    except httpx.HTTPError:
        return False


def ended(grown: Stack, api: httpx.Client, path: str, status: str) -> Any:
    def end() -> Any:
        found = asked(api, path)
        return found if found and found["status"] in ENDED else None

    done = grown.wait_for(end, seconds=300)
    assert done["status"] == status, f"{done}\n{grown.text[-6000:]}"
    return done


def steps_are_there(run: dict[str, Any], api: httpx.Client) -> int:
    """Each once, of a worker that never lost it; how many there are."""
    assert run["attempt"] == 1
    text = api.get(f"/runs/{run['id']}/metrics", params={"format": "csv"}).raise_for_status().text
    recorded = [int(row["step"]) for row in csv.DictReader(io.StringIO(text)) if row.get("train/mean_nll")]
    assert recorded == list(range(1, run["step"] + 1))
    return len(recorded)


def all_attempts_are_there(eval_run: dict[str, Any], api: httpx.Client, number: int) -> None:
    assert (eval_run["attempt"], eval_run["num_done"], eval_run["num_errors"]) == (1, number, 0), eval_run
    found: Counter[tuple[str, int]] = Counter()
    for position in range(1, eval_run["num_tasks"] + 1):
        path = f"/evals/{eval_run['id']}/tasks/{position}/attempts"
        found.update((position, each["attempt"]) for each in api.get(path).raise_for_status().json()["items"])
    assert len(found) == number and set(found.values()) == {1}


def test_a_worker_never_gives_a_broker_up() -> None:
    assert app.conf.broker_connection_max_retries is None
