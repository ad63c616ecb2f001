"""A real worker, killed in the middle of real requests to a server on loopback."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from evsys_web.accounts.models import Project, User
from evsys_web.evals.actions import launch_eval, resume_eval, stop_eval
from evsys_web.evals.models import Benchmark, EvalRun, Status
from recipes.eval_config import EvalConfig
from recipes.evals.metrics import summarise
from tests.evsys_web.evals.conftest import config_values, task_rows
from tests.evsys_web.workers import StartWorker, kill, send_hint
from tests.recipes.chat_server import Answer, chat_server, completion

pytestmark = pytest.mark.django_db(transaction=True)

NUM_TASKS, K = 60, 4


@pytest.fixture
def many_tasks(alice: User, project: Project, make_version: Any) -> Benchmark:
    from evsys_web.evals.actions import create_benchmark

    version = make_version(task_rows(NUM_TASKS), name="many")
    return create_benchmark(user=alice, project=project, name="Many", dataset_version=version, verifier={"kind": "numeric"})


def solve(request: dict[str, Any], number: int) -> Answer:
    """Adds up, one time in four wrongly, and takes its time."""
    time.sleep(0.02)
    first, second = re.findall(r"\d+", request["messages"][-1]["content"])
    return completion([str(int(first) + int(second) + (number % 4 == 0)) for _ in range(request.get("n", 1))])


def endpoint_config(base_url: str, **values: Any) -> EvalConfig:
    endpoint = {"base_url": base_url, "model": "adder", "max_retries": 0, "timeout_seconds": 60}
    return EvalConfig.from_values({**config_values(model=None, endpoint=endpoint), "concurrency": 3, **values})


def wait_until(run: EvalRun, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        run.refresh_from_db()
        if condition():
            return
        assert time.monotonic() < deadline, f"no {what} after {seconds} s: {run.status}, {run.num_done} done, {run.error}"
        time.sleep(0.02)


@pytest.mark.fault("kill -9 of the worker in mid eval", "Resumed, no attempt lost or doubled.", kills={"worker"}, during={"eval"})
def test_a_killed_worker_costs_no_attempt_and_doubles_none(
    start_worker: StartWorker, alice: User, project: Project, many_tasks: Benchmark
) -> None:
    with chat_server(solve) as server:
        config = endpoint_config(server.base_url, attempts=K)
        run = launch_eval(user=alice, project=project, config=config, benchmark=many_tasks)
        worker = start_worker()
        send_hint(run)
        wait_until(run, lambda: run.num_done >= NUM_TASKS, "first quarter")
        kill(worker)
        run.refresh_from_db()
        kept = dict(run.attempts.values_list("pk", "reward"))
        assert NUM_TASKS <= len(kept) < NUM_TASKS * K and run.num_done == len(kept)
        start_worker()
        wait_until(run, lambda: run.status == Status.CRASHED, "crash")
        assert run.error_type == "WorkerLost" and f"{len(kept)} of 240 attempts are kept" in run.error
        num_asked = len(server.requests)
        resume_eval(user=alice, run=run)
        send_hint(run)
        wait_until(run, lambda: run.has_ended, "end")
    assert (run.status, run.num_done, run.num_errors, run.attempt) == (Status.COMPLETED, 240, 0, 2), run.error
    assert run.attempts.count() == 240
    assert Counter(run.attempts.values_list("task__task_id", flat=True)) == {f"sum-{n}": K for n in range(NUM_TASKS)}
    assert kept.items() <= dict(run.attempts.values_list("pk", "reward")).items()
    samples = sum(request.get("n", 1) for request in server.requests[num_asked:])
    assert samples == 240 - len(kept)
    assert [task.num_correct for task in run.tasks.all()] == [
        task.attempts.filter(is_correct=True).count() for task in run.tasks.all()
    ]
    assert run.summary == summarise(run.task_counts()).as_json()


def test_a_stop_keeps_what_was_done_and_resume_goes_on(
    start_worker: StartWorker, alice: User, project: Project, many_tasks: Benchmark
) -> None:
    with chat_server(solve) as server:
        config = endpoint_config(server.base_url, attempts=K)
        run = launch_eval(user=alice, project=project, config=config, benchmark=many_tasks)
        start_worker()
        send_hint(run)
        wait_until(run, lambda: run.num_done >= 20, "some attempts")
        stop_eval(user=alice, run=run)
        wait_until(run, lambda: run.has_ended, "end")
        assert run.status == Status.CANCELLED and run.num_done == run.attempts.count() < 240
        resume_eval(user=alice, run=run)
        send_hint(run)
        wait_until(run, lambda: run.has_ended, "end")
    assert (run.status, run.num_done, run.attempts.count()) == (Status.COMPLETED, 240, 240)
