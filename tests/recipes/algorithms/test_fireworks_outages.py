"""The service may be away at any question: nothing is ordered twice, and nothing that costs is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.config import RunConfig
from recipes.resources import Resource, ResourceLog
from recipes.types import LoopState
from tests.fireworks_server import ACCOUNT, FireworksServer, State
from tests.recipes.algorithms.managed import broken, job_config, server, train, unheard
from tests.recipes.runs_under_test import Killed, KilledAfter, Witness

__all__ = ["server"]

JOBS, JOB = r"supervisedFineTuningJobs$", r"supervisedFineTuningJobs/[^/:]+$"
SLOW = [State("RUNNING", 1), State("RUNNING", 2), *[State("RUNNING", 3)] * 2000, State("COMPLETED", 4)]
MORE_THAN_THE_SDK_TRIES = 4
MAY_BE_AT_WORK = "may still be at work and cost: resume this run"


class StopsWhileItIsAway(Witness):
    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self._left = times

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        super().on_event(state, level, message)
        if "It is asked again" in message and self._left:
            self._left -= 1
            state.request_stop()

    def said(self, words: str) -> list[str]:
        return [level for level, message in self.events if words in message]


def impatient(server: FireworksServer) -> RunConfig:
    return job_config(server, backend={"outage_seconds": 1})


@pytest.mark.fault(
    "A managed service is away, or answers 500, at any question about a job", "It is asked on; nothing is ordered twice."
)
@pytest.mark.parametrize("status", [0, 500])
@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("GET", r"/v1/accounts$"),
        ("GET", r"/models/qwen"),
        ("POST", r"/datasets$"),
        ("POST", r":upload$"),
        ("POST", JOBS),
        ("GET", JOB),
        ("GET", r"/models/evsys"),
    ],
)
def test_an_outage_at_any_question_is_waited_out_and_told(
    server: FireworksServer, tmp_path: Path, method: str, pattern: str, status: int
) -> None:
    server.faults.append(broken(method, pattern, times=MORE_THAN_THE_SDK_TRIES, status=status))
    seen = StopsWhileItIsAway(times=0)
    result = train(server, tmp_path, seen)
    assert (result.status, result.steps, len(server.jobs)) == ("completed", 4, 1), result.error
    assert seen.said("It is asked again for up to 900 seconds") == ["warning"] and seen.said("answers again") == ["info"]


def test_an_order_whose_answer_is_lost_again_and_again_is_one_order(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(unheard(server, "POST", JOBS, times=MORE_THAN_THE_SDK_TRIES))
    assert train(server, tmp_path).status == "completed" and len(server.jobs) == 1


@pytest.mark.fault("A managed service never answers an order", "Failed, with that it may be at work; a resume finds it.")
def test_an_order_that_is_never_answered_ends_the_run_and_is_found_by_a_resume(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(unheard(server, "POST", JOBS))
    result = train(server, tmp_path, config=impatient(server))
    (name,) = server.jobs
    assert result.status == "failed" and "lasted for 1 seconds" in (result.error or "") and MAY_BE_AT_WORK in (result.error or "")
    assert ResourceLog(tmp_path).left()[-1] == Resource("sft_job", name, ACCOUNT)
    server.faults.clear()
    assert train(server, tmp_path, config=impatient(server)).status == "completed" and len(server.jobs) == 1


def test_a_stop_while_the_order_is_unanswered_cancels_what_was_ordered(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    server.faults.append(unheard(server, "POST", JOBS))
    assert train(server, tmp_path, StopsWhileItIsAway()).status == "cancelled"
    (job,) = server.jobs.values()
    assert job.ended == "CANCELLED" and ResourceLog(tmp_path).left()[-1].kind == "sft_job", "the reaper may look again"


def test_a_stop_before_anything_is_ordered_orders_nothing(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(broken("POST", r"/datasets$"))
    assert train(server, tmp_path, StopsWhileItIsAway()).status == "cancelled" and not server.jobs
    assert not ResourceLog(tmp_path).left()


@pytest.mark.parametrize("pattern", [r"/v1/accounts$", JOB])
def test_a_worker_that_cannot_come_back_says_that_the_job_may_go_on(
    server: FireworksServer, tmp_path: Path, pattern: str
) -> None:
    with pytest.raises(Killed):
        train(server, tmp_path, KilledAfter(1), config=impatient(server))
    server.faults.append(broken("GET", pattern, status=503))
    result = train(server, tmp_path, config=impatient(server))
    assert result.status == "failed" and MAY_BE_AT_WORK in (result.error or "")
    assert [each.kind for each in ResourceLog(tmp_path).left()] == ["dataset", "sft_job"]
    server.faults.clear()
    assert train(server, tmp_path, config=impatient(server)).status == "completed" and len(server.jobs) == 1


def test_a_stop_while_it_is_away_cancels_as_soon_as_it_is_back(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    server.faults += [broken("GET", JOB, times=30), broken("POST", r":cancel$", times=MORE_THAN_THE_SDK_TRIES, status=502)]
    seen = StopsWhileItIsAway()
    assert train(server, tmp_path, seen).status == "cancelled"
    (job,) = server.jobs.values()
    assert job.ended == "CANCELLED" and not seen.said("could not be cancelled")


def test_a_cancel_whose_answer_is_lost_was_heard(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    server.faults.append(unheard(server, "POST", r":cancel$", times=MORE_THAN_THE_SDK_TRIES))
    seen = StopsWhileItIsAway(times=0)
    seen.stop_after = 1
    assert train(server, tmp_path, seen).status == "cancelled" and not seen.said("could not be cancelled")


def test_a_second_stop_ends_the_waiting_and_says_what_may_go_on(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    server.faults.append(broken("POST", r":cancel$"))
    seen = StopsWhileItIsAway()
    seen.stop_after = 1
    assert train(server, tmp_path, seen).status == "cancelled"
    assert seen.said("could not be cancelled and may go on, and cost") == ["error"] and ResourceLog(tmp_path).left()


def test_a_resume_whose_answer_is_lost_was_heard(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW[:4] + SLOW[-1:]
    assert train(server, tmp_path, Witness(stop_after=1)).status == "cancelled"
    server.faults.append(unheard(server, "POST", r":resume$", times=MORE_THAN_THE_SDK_TRIES))
    assert train(server, tmp_path).status == "completed" and len(server.jobs) == 1


def test_a_resume_that_is_never_answered_may_have_been_heard(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    assert train(server, tmp_path, Witness(stop_after=1), config=impatient(server)).status == "cancelled"
    server.faults.append(unheard(server, "POST", r":resume$"))
    assert MAY_BE_AT_WORK in (train(server, tmp_path, config=impatient(server)).error or "")


def test_the_last_metrics_are_asked_for_until_they_come(server: FireworksServer, tmp_path: Path) -> None:
    server.walk, server.metrics_404 = [State("COMPLETED", 4)], 0
    server.faults.append(broken("GET", "/signed/metrics/", times=3, status=500))
    seen = Witness()
    assert train(server, tmp_path, seen).status == "completed" and sorted(seen.steps) == [1, 2, 3, 4]


def test_curves_that_end_early_are_told_and_the_model_is_kept(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("COMPLETED", 4)]
    server.faults.append(broken("GET", "/signed/metrics/", status=500))
    seen = StopsWhileItIsAway(times=0)
    assert train(server, tmp_path, seen, config=impatient(server)).status == "completed"
    assert seen.said("curves may end early") == ["warning"] and [each.name for each in seen.checkpoints] == ["final"]


def test_weights_of_a_stopped_job_are_kept_through_an_outage(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = SLOW
    name = f"accounts/{ACCOUNT}/supervisedFineTuningJobs/any/checkpoints/step-2"
    server.checkpoints = [{"name": name, "createTime": "2026-11-02", "promotable": True}]
    server.faults += [
        broken("GET", r"/checkpoints$", times=MORE_THAN_THE_SDK_TRIES, status=500),
        unheard(server, "POST", r":promote$", times=MORE_THAN_THE_SDK_TRIES),
    ]
    seen = Witness(stop_after=2)
    assert train(server, tmp_path, seen, save_every=1).status == "cancelled"
    assert [each.name for each in seen.checkpoints] == ["step_2"]


def test_a_model_that_is_not_seen_in_an_outage_is_found_by_a_resume(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(broken("GET", r"/models/evsys", status=500))
    result = train(server, tmp_path, config=impatient(server))
    assert "lasted for 1 seconds" in (result.error or "") and MAY_BE_AT_WORK not in (result.error or "")
    server.faults.clear()
    seen = Witness()
    assert train(server, tmp_path, seen, config=impatient(server)).status == "completed"
    assert len(server.jobs) == 1 and [each.name for each in seen.checkpoints] == ["final"]
