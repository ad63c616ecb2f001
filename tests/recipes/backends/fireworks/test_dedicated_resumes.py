"""A run on a dedicated trainer that is killed, stopped or left without its machine goes on as if nothing had been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipes.backends.fireworks.provisioning import DedicatedTrainer
from recipes.config import RunConfig
from recipes.resources import ResourceLog
from recipes.types import LoopState, Metrics, RunResult, TrainingBatch
from tests.fireworks_trainers import SHAPE
from tests.recipes.backends.fireworks.pool import config, train
from tests.recipes.backends.fireworks.trainer_proxy import TrainerProxy
from tests.recipes.runs_under_test import Killed, KilledAfter, Witness, chats

STEPS = 4


def short(trainers: TrainerProxy, **backend: Any) -> RunConfig:
    chosen = {"trainer": "dedicated", "accept_billing": True, "training_shape": SHAPE, "ready_seconds": 120, **backend}
    params = {"batch_size": 4, "max_steps": STEPS, "learning_rate": 3e-3, "save_every": 2}
    return config(trainers.url, "sft", backend={"promote": "none", **chosen}, **params)


def trained(run: RunConfig, folder: Path, seen: Witness, *, resume: bool = False) -> RunResult:
    return train(run, folder, seen, rows=chats(12), resume=resume)


@pytest.fixture(scope="module")
def undisturbed(trainer_proxy: TrainerProxy, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    trainer_proxy.renew()
    seen = Witness()
    assert trained(short(trainer_proxy), tmp_path_factory.mktemp("undisturbed"), seen).error is None
    return {step: values["train/loss"] for step, values in seen.steps.items()}


def killed(trainers: TrainerProxy, folder: Path, monkeypatch: pytest.MonkeyPatch, run: RunConfig) -> str:
    """The trainer that a worker leaves that dies after step 3."""
    with monkeypatch.context() as dead, pytest.raises(Killed):
        dead.setattr(DedicatedTrainer, "remove", lambda self: None)
        trained(run, folder, KilledAfter(3))
    (name,) = trainers.control.trainers.up
    assert [resource.name for resource in ResourceLog(folder).left()] == [name]
    return name


def gone_on(trainers: TrainerProxy, folder: Path, run: RunConfig, undisturbed: dict[int, float]) -> Witness:
    seen = Witness()
    result = trained(run, folder, seen, resume=True)
    assert (result.status, result.steps, seen.start_step) == ("completed", STEPS, 2), result.error
    assert {step: values["train/loss"] for step, values in seen.steps.items()} == pytest.approx(
        {step: loss for step, loss in undisturbed.items() if step > 2}, rel=1e-6
    )
    assert not trainers.control.trainers.up and not ResourceLog(folder).left()
    return seen


def test_a_killed_worker_is_followed_by_one_in_the_same_trainer(
    trainers: TrainerProxy, tmp_path: Path, undisturbed: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = killed(trainers, tmp_path, monkeypatch, run := short(trainers))
    seen = gone_on(trainers, tmp_path, run, undisturbed)
    assert list(trainers.control.trainers.trainers) == [name] and trainers.loaded[0].startswith("step-2-")
    assert any(f"Found the trainer {name} again" in message for _, message in seen.events)


@pytest.mark.fault(
    "A dedicated trainer has ended when the run of a killed worker goes on", "Another takes the state across; the same losses."
)
def test_where_that_trainer_has_ended_another_takes_the_state_across(
    trainers: TrainerProxy, tmp_path: Path, undisturbed: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = killed(trainers, tmp_path, monkeypatch, run := short(trainers))
    trainers.control.trainers.trainers[name].end("CANCELLED")  # as the service does to one that idles
    gone_on(trainers, tmp_path, run, undisturbed)
    assert len(trainers.control.trainers.trainers) == 2 and trainers.loaded[0].startswith(f"cross_job://{name}/step-2-")
    assert trainers.control.trainers.trainers[name].state == "ARCHIVED"


def test_a_stopped_run_leaves_no_trainer_and_goes_on_in_another(
    trainers: TrainerProxy, tmp_path: Path, undisturbed: dict[int, float]
) -> None:
    run = short(trainers)
    assert trained(run, tmp_path, Witness(stop_after=2)).status == "cancelled"
    assert not trainers.control.trainers.up and not ResourceLog(tmp_path).left()
    gone_on(trainers, tmp_path, run, undisturbed)


def test_a_state_that_no_trainer_finds_is_a_sentence_and_nothing_is_trained_or_left(
    trainers: TrainerProxy, tmp_path: Path
) -> None:
    run = short(trainers)
    assert trained(run, tmp_path, Witness(stop_after=1)).status == "cancelled"
    trainers.forget()
    seen = Witness()
    result = trained(run, tmp_path, seen, resume=True)
    assert result.status == "failed" and "refused loading fireworks://accounts/acme/rlorTrainerJobs/" in (result.error or "")
    assert not seen.steps and not trainers.control.trainers.up


class After(Witness):
    """Does something once a step is done."""

    def __init__(self, step: int, do: Any) -> None:
        super().__init__()
        self._step, self._do = step, do

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        super().on_step_end(state, step, batch, metrics)
        if step == self._step:
            self._do(state)


@pytest.mark.fault(
    "A dedicated trainer's machine vanishes in mid run", "Failed, in the service's words; what is left of it is deleted."
)
def test_a_machine_that_vanishes_is_told_in_the_services_words_and_what_is_left_of_it_deleted(
    trainers: TrainerProxy, tmp_path: Path
) -> None:
    def vanish(state: LoopState) -> None:
        (trainer,) = trainers.control.trainers.trainers.values()
        trainers.is_away, trainers.control.trainers.message = True, "the node was lost"
        trainer.end("FAILED")

    result = trained(short(trainers, step_seconds=60), tmp_path, After(2, vanish))
    assert result.status == "failed" and "is FAILED: the node was lost." in (result.error or ""), result.error
    assert [each.state for each in trainers.control.trainers.trainers.values()] == ["ARCHIVED"]
    assert not ResourceLog(tmp_path).left()


def test_it_is_not_up_for_longer_than_was_allowed_and_what_it_did_is_kept(
    trainers: TrainerProxy, tmp_path: Path, undisturbed: dict[int, float]
) -> None:
    def grow_old(state: LoopState) -> None:
        backend: Any = state.backend
        backend._trainer._up_since -= 13 * 3600

    run = short(trainers)
    result = trained(run, tmp_path, seen := After(2, grow_old))
    assert result.status == "failed" and "up for 12 hours, as long as longest_hours allows" in (result.error or "")
    assert [each.name for each in seen.checkpoints] == ["step_2"] and not trainers.control.trainers.up
    gone_on(trainers, tmp_path, run, undisturbed)
