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

from tests.faults.servers import Postgres, Redis, are_installed
from tests.stack import Stack

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not are_installed(), reason="needs PostgreSQL and Redis: apt-get install postgresql redis-server"),
]
STEPS = 60
CONFIG = {
    "name": "survivor",
    "data": {"dataset": "starter-sums@1"},
    "algorithm": {"kind": "mock_sft", "params": {"max_steps": STEPS, "save_every": 10}},
    "backend": {"kind": "mock", "params": {"step_seconds": 0.25}},
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
    "kill -9 of the broker, away while a run is launched", "The launch is accepted; the run starts when a worker is free."
)
@pytest.mark.fault(
    "kill -9 of PostgreSQL in mid run", "Steps wait in the worker; the run goes on when it is back, none lost or doubled."
)
def test_all_servers_around_a_run_die_and_no_step_is_lost_or_doubled(stack: Stack, database: Postgres, broker: Redis) -> None:
    with stack.api() as api:
        first = api.post("/runs", json=CONFIG).raise_for_status().json()["id"]
        reach(stack, api, first, 2)
        web_process(stack).kill()
        reach(stack, api, first, 4)
        broker.kill()
        second = api.post("/runs", json=CONFIG).raise_for_status().json()["id"]
        time.sleep(1)
        broker.start()
        database.kill()
        time.sleep(2)
        database.start()
        for run in (first, second):
            done = stack.wait_for(
                lambda run=run: (found := asked(api, f"/runs/{run}")) and found["status"] in ENDED and found,  # type: ignore[misc]
                seconds=200,
            )
            assert done["status"] == "completed", done
            text = api.get(f"/runs/{run}/metrics", params={"format": "csv"}).raise_for_status().text
            steps = [int(row["step"]) for row in csv.DictReader(io.StringIO(text)) if row.get("train/mean_nll")]
            assert steps == list(range(1, STEPS + 1))


ENDED = ("completed", "failed", "crashed", "cancelled")
