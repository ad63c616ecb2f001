"""A worker that is killed makes no second job, one that leaves lets it go on, and a stop ends the bill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipes.backends.fireworks import jobs as jobs_module
from recipes.resources import Resource, ResourceLog
from recipes.types import LoopState, Metrics, TrainingBatch
from tests.fireworks_server import ACCOUNT, FireworksServer, Request, State
from tests.recipes.algorithms.managed import failing, server, train
from tests.recipes.runs_under_test import Killed, KilledAfter, Witness

__all__ = ["server"]

SLOW = [State("RUNNING", 1), State("RUNNING", 2), *[State("RUNNING", 3)] * 200, State("COMPLETED", 4)]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_killed_worker_is_followed_by_one_that_finds_the_job(server: FireworksServer, tmp_path: Path, step: int) -> None:
    with pytest.raises(Killed):
        train(server, tmp_path, KilledAfter(step))
    seen = Witness()
    result = train(server, tmp_path, seen)
    assert result.status == "completed" and len(server.jobs) == 1
    assert seen.start_step == step and sorted(seen.steps) == list(range(step + 1, 5)), "no step is told twice"
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines if "progress/done" in line] == [f'{{"step":{n}' for n in (1, 2, 3, 4)]


def test_one_killed_between_order_and_answer_makes_no_second_job(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = jobs_module.FireworksJobs.create

    def die(self: jobs_module.FireworksJobs, order: Any) -> None:
        create(self, order)
        raise Killed

    monkeypatch.setattr(jobs_module.FireworksJobs, "create", die)
    with pytest.raises(Killed):
        train(server, tmp_path)
    monkeypatch.undo()
    assert ResourceLog(tmp_path).left()[-1] == Resource("sft_job", next(iter(server.jobs)), ACCOUNT)
    assert train(server, tmp_path).status == "completed" and len(server.jobs) == 1


def test_a_create_that_was_answered_by_silence_is_not_doubled(server: FireworksServer, tmp_path: Path) -> None:
    """The SDK tries again by itself and hears that the job is there: it is ours."""
    hangs = [1]

    def hang_up(request: Request) -> tuple[int, Any] | None:
        if request.method == "POST" and request.path.endswith("supervisedFineTuningJobs") and hangs:
            hangs.clear()
            server.requests.pop()
            server.answer(request)
            return 0, None
        return None

    server.faults.append(hang_up)
    assert train(server, tmp_path).status == "completed" and len(server.jobs) == 1


def test_a_changed_run_does_not_take_over_the_job(server: FireworksServer, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(server, tmp_path, KilledAfter(1))
    result = train(server, tmp_path, learning_rate=0.01)
    assert result.status == "failed" and "algorithm.params.learning_rate was 0.0001 and is now 0.01" in (result.error or "")


def test_a_stop_cancels_the_job_and_keeps_the_last_weights(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    seen = Witness(stop_after=2)
    rows = [("step-1", "2026-11-01", True), ("step-2", "2026-11-02", True), ("dcp-2", "2026-11-03", False)]
    parent = f"accounts/{ACCOUNT}/supervisedFineTuningJobs/any/checkpoints"
    server.checkpoints = [{"name": f"{parent}/{name}", "createTime": at, "promotable": ok} for name, at, ok in rows]
    result = train(server, tmp_path, seen, save_every=1)
    assert result.status == "cancelled" and server.count("POST", ":cancel$") == 1
    assert server.last("POST", ":promote$").path == f"/v1/{parent}/step-2:promote"
    assert [(each.name, each.step) for each in seen.checkpoints] == [("step_2", 2)]


def test_a_cancelled_job_goes_on_after_a_resume(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW[:4] + SLOW[-1:]
    assert train(server, tmp_path, Witness(stop_after=1)).status == "cancelled"
    seen = Witness()
    assert train(server, tmp_path, seen).status == "completed"
    assert len(server.jobs) == 1 and server.count("POST", ":resume$") == 1 and seen.start_step is not None


def test_a_stop_just_after_a_resume_cancels_the_job_again(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.walk = SLOW
    assert train(server, tmp_path, Witness(stop_after=1)).status == "cancelled"
    resume = jobs_module.FireworksJobs.resume

    def resume_late(self: jobs_module.FireworksJobs, kind: str, name: str) -> None:
        """The service shows the old end for a while."""
        resume(self, kind, name)
        server.jobs[name].ended = "CANCELLED"

    class Hasty(Witness):
        def on_event(self, state: LoopState, level: str, message: str) -> None:
            if "to go on with the job" in message:
                state.request_stop()

    monkeypatch.setattr(jobs_module.FireworksJobs, "resume", resume_late)
    assert train(server, tmp_path, Hasty()).status == "cancelled"
    assert server.count("POST", ":cancel$") == 2


def test_a_job_that_may_not_go_on_says_so(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("RUNNING", 1), State("FAILED", 1, "bad node")]
    train(server, tmp_path)
    result = train(server, tmp_path)
    assert "only cancelled jobs can be resumed" in (result.error or "") and "Clone the run" in (result.error or "")


class Leaving(Witness):
    """A worker that shuts down: its run is handed back."""

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        state.is_leaving = True
        state.request_stop()


def test_a_worker_that_leaves_lets_the_job_go_on(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    assert train(server, tmp_path, Leaving()).status == "cancelled"
    assert not server.count("POST", ":cancel$") and server.datasets


def test_a_service_that_will_not_cancel_is_told(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    server.faults.append(failing("POST", ":cancel", 403, "not yours to cancel"))
    seen = Witness(stop_after=1)
    assert train(server, tmp_path, seen).status == "cancelled"
    assert any(level == "error" and "not yours to cancel" in message for level, message in seen.events)
