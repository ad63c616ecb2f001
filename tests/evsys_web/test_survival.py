"""Work that survives, end to end: the real web process, worker, broker and engine, driven over REST, killed in the middle."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.stack import Stack

STEPS = 40
CONFIG = {
    "name": "survivor",
    "model": {"name": "starter"},
    "data": {"dataset": "starter-sums@1"},
    "algorithm": {"kind": "sft", "params": {"max_steps": STEPS, "batch_size": 2, "save_every": 5}},
    "backend": {"kind": "local"},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack") / "home", RUN_LEASE_SECONDS="15")  # what is lost is seen after it
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    with stack.api() as client:
        yield client


def wait_for_status(stack: Stack, api: httpx.Client, run_id: int, *wanted: str, step: int = 0, seconds: float = 200) -> Any:
    """The run, once it is in one of these states with that many steps done."""

    def look() -> Any:
        run = api.get(f"/runs/{run_id}").raise_for_status().json()
        assert run["status"] in {*wanted, "queued", "starting", "running", "stopping"}, run
        return run if run["status"] in wanted and run["step"] >= step else None

    return stack.wait_for(look, seconds=seconds)


def steps_with_a_loss(api: httpx.Client, run_id: int) -> list[int]:
    """In the order in which they are stored, a step as often as it was recorded."""
    text = api.get(f"/runs/{run_id}/metrics", params={"format": "csv"}).raise_for_status().text
    return [int(row["step"]) for row in csv.DictReader(io.StringIO(text)) if row.get("train/mean_nll")]


@pytest.mark.fault(
    "kill -9 of the worker in mid run",
    "Crashed within a lease, with where it goes on; resumed, no step lost or doubled.",
    kills={"worker"},
    during={"run"},
)
def test_a_worker_killed_in_mid_run_loses_and_doubles_no_step(stack: Stack, api: httpx.Client) -> None:
    run_id = api.post("/runs", json=CONFIG).raise_for_status().json()["id"]
    wait_for_status(stack, api, run_id, "running", step=12)
    stack.kill_worker()
    crashed = wait_for_status(stack, api, run_id, "crashed")
    assert 12 <= crashed["step"] < STEPS
    assert "resume" in crashed["error"].lower()
    api.post(f"/runs/{run_id}/resume").raise_for_status()
    done = wait_for_status(stack, api, run_id, "completed")
    assert done["step"] == STEPS
    assert steps_with_a_loss(api, run_id) == list(range(1, STEPS + 1))


def test_a_run_that_was_stopped_goes_on_where_it_was(stack: Stack, api: httpx.Client) -> None:
    run_id = api.post("/runs", json=CONFIG).raise_for_status().json()["id"]
    wait_for_status(stack, api, run_id, "running", step=3)
    api.post(f"/runs/{run_id}/stop").raise_for_status()
    stopped = wait_for_status(stack, api, run_id, "cancelled")
    assert 3 <= stopped["step"] < STEPS
    api.post(f"/runs/{run_id}/resume").raise_for_status()
    wait_for_status(stack, api, run_id, "completed")
    assert steps_with_a_loss(api, run_id) == list(range(1, STEPS + 1))


def test_two_runs_queue_behind_each_other(stack: Stack, api: httpx.Client) -> None:
    first, second = (api.post("/runs", json=CONFIG).raise_for_status().json()["id"] for _ in range(2))
    wait_for_status(stack, api, first, "running", step=2)
    assert api.get(f"/runs/{second}").json()["status"] == "queued"
    api.post(f"/runs/{first}/stop").raise_for_status()
    wait_for_status(stack, api, second, "running", step=1)
    assert api.get(f"/runs/{first}").json()["status"] == "cancelled"
    api.post(f"/runs/{second}/stop").raise_for_status()
    wait_for_status(stack, api, second, "cancelled")


@pytest.mark.fault("SIGTERM to the worker in mid run (an update)", "Saved after its step, back in the queue, goes on by itself.")
def test_a_restart_in_mid_run_hands_it_back_and_goes_on(stack: Stack, api: httpx.Client) -> None:
    run_id = api.post("/runs", json=CONFIG).raise_for_status().json()["id"]
    wait_for_status(stack, api, run_id, "running", step=2)
    stack.worker().terminate()  # as an update or a Ctrl-C does; the supervisor starts the next one
    assert wait_for_status(stack, api, run_id, "completed")["attempt"] == 2
    assert steps_with_a_loss(api, run_id) == list(range(1, STEPS + 1))


@pytest.mark.timeout(900)  # two starts of everything, and a lease
@pytest.mark.fault("kill -9 of the supervisor", "All its processes end; the next start goes on.")
def test_a_killed_supervisor_leaves_no_process_behind_even_while_training_and_the_next_start_goes_on(
    stack: Stack, api: httpx.Client
) -> None:
    run_id = api.post("/runs", json={**CONFIG, "auto_resume": True}).raise_for_status().json()["id"]
    wait_for_status(stack, api, run_id, "running", step=6)
    family = stack.kill_supervisor()
    assert len(family) >= 3  # pages, worker, and the pool process that trains
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    stack.start()
    assert wait_for_status(stack, api, run_id, "completed")["attempt"] == 2
    assert steps_with_a_loss(api, run_id) == list(range(1, STEPS + 1))
