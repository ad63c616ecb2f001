"""One run on PostgreSQL and Redis, while the web process, the broker and the database are killed around it."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from evsys_web.celery import app
from tests.faults.servers import Postgres, Redis, are_installed
from tests.stack import Stack

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not are_installed(), reason="needs PostgreSQL and Redis: apt-get install postgresql redis-server"),
]
LONG, SHORT = 100_000, 5
"""Steps. The long run cannot be over before it is stopped, however slow the machine: what dies, dies in its middle."""
ENDED = ("completed", "failed", "crashed", "cancelled")


def config(steps: int) -> dict[str, Any]:
    return {
        "name": "survivor",
        "data": {"dataset": "starter-sums@1"},
        "algorithm": {"kind": "mock_sft", "params": {"max_steps": steps, "save_every": 20, "step_seconds": 0.1}},
        "backend": {"kind": "mock"},
    }


@pytest.fixture
def database() -> Iterator[Postgres]:
    database = Postgres()
    yield database
    database.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Redis]:
    broker = Redis(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def stack(tmp_path: Path, database: Postgres, broker: Redis) -> Iterator[Stack]:
    stack = Stack(tmp_path / "home", DATABASE_URL=database.url, EVSYS_TEST_BROKER_URL=broker.url)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def asked(api: httpx.Client, path: str) -> Any:
    """The answer, or None while there is none."""
    try:
        response = api.get(path)
    except httpx.HTTPError:
        return None
    return response.json() if response.status_code == 200 else None


def reach(stack: Stack, api: httpx.Client, run: int, step: int) -> None:
    stack.wait_for(lambda: (asked(api, f"/runs/{run}") or {}).get("step", 0) >= step, seconds=120)


def web_process(stack: Stack) -> psutil.Process:
    assert stack._process is not None
    return next(child for child in psutil.Process(stack._process.pid).children() if "uvicorn" in child.cmdline())


@pytest.mark.fault("kill -9 of the web process", "The run goes on; the page is back within seconds.")
@pytest.mark.fault(
    "kill -9 of the broker, away for the rest of a run (longer than anything waits for it) and while another is launched",
    "The first goes on, can be stopped and ends; the launch is accepted, and begins some seconds after the broker's return.",
)
@pytest.mark.fault(
    "kill -9 of PostgreSQL in mid run", "Steps wait in the worker; the run goes on when it is back, none lost or doubled."
)
def test_all_servers_around_a_run_die_and_no_step_is_lost_or_doubled(stack: Stack, database: Postgres, broker: Redis) -> None:
    with stack.api() as api:
        first = api.post("/runs", json=config(LONG)).raise_for_status().json()["id"]
        reach(stack, api, first, 2)
        web_process(stack).kill()
        reach(stack, api, first, 4)
        broker.kill()
        second = api.post("/runs", json=config(SHORT)).raise_for_status().json()["id"]
        before = stack.wait_for(lambda: asked(api, f"/runs/{first}"))["step"]
        database.kill()
        time.sleep(2)
        database.start()
        reach(stack, api, first, before + 50)
        stack.wait_for(lambda: stop(api, first))
        ended(stack, api, first, "cancelled")
        assert asked(api, f"/runs/{second}")["status"] == "queued"
        broker.start()
        assert ended(stack, api, second, "completed") == SHORT


def stop(api: httpx.Client, run: int) -> bool:
    """Whether it was heard: a pool of connections may hold one that died with the database."""
    try:
        return api.post(f"/runs/{run}/stop").is_success
    except httpx.HTTPError:
        return False


def ended(stack: Stack, api: httpx.Client, run: int, status: str) -> int:
    """How many steps it took, each of which is there once."""

    def end() -> Any:
        found = asked(api, f"/runs/{run}")
        return found if found and found["status"] in ENDED else None

    done = stack.wait_for(end, seconds=200)
    assert done["status"] == status, f"{done}\n{stack.text[-6000:]}"
    text = api.get(f"/runs/{run}/metrics", params={"format": "csv"}).raise_for_status().text
    recorded = [int(row["step"]) for row in csv.DictReader(io.StringIO(text)) if row.get("train/mean_nll")]
    assert recorded == list(range(1, done["step"] + 1))
    return len(recorded)


def test_a_worker_never_gives_a_broker_up() -> None:
    assert app.conf.broker_connection_max_retries is None
