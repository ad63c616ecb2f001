"""How long a dedicated trainer may cost, and what is known of an order that was refused or not answered."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from recipes.backends.fireworks import provisioning
from recipes.errors import BackendError
from recipes.resources import RESOURCES_FILE, ResourceLog
from tests.fireworks_server import MODEL, FireworksServer, Request
from tests.recipes.algorithms.managed import failing, unheard
from tests.recipes.backends.fireworks.test_provisioning import CREATE, LOOK, left, of, server, trained

__all__ = ["server"]


def test_whoever_takes_it_up_has_what_is_left_of_its_time_and_the_wait_for_it_counts(
    server: FireworksServer, tmp_path: Path
) -> None:
    left(server, tmp_path, ["RUNNING"])
    path = tmp_path / RESOURCES_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"at": "2026-01-01T00:00:00+00:00"}) + "\n")
    error = trained(server, tmp_path).error or ""
    assert "as long as longest_hours allows" in error and not server.trainers.up and not ResourceLog(tmp_path).left()
    server.trainers.walk = ["PENDING"]
    error = trained(server, tmp_path / "coming", longest_hours=0.0003).error or ""
    assert "as long as longest_hours allows" in error and not server.trainers.up and len(server.trainers.trainers) == 2
    assert not ResourceLog(tmp_path / "coming").left()


def test_it_is_deleted_in_time_by_a_clock_of_its_own(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while nobody asks it anything: a step hangs, or somebody's evaluator. What is refused at first is asked again."""
    monkeypatch.setattr(provisioning, "NOTE_SECONDS", 0.05)
    server.faults.append(failing("DELETE", "/rlorTrainerJobs/", 400, "locked", times=1))
    told: list[str] = []
    trainer = of(server, tmp_path, told)
    trainer.up()
    trainer._count_from(time.monotonic() - 13 * 3600)
    deadline = time.monotonic() + 120
    while ResourceLog(tmp_path).left():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not server.trainers.up and "as long as longest_hours allows" in trainer.end_in_words()
    trainer.remove()
    assert sum("was not deleted and may cost" in sentence for sentence in told) == 1
    assert server.count("DELETE", LOOK) == 2 and sum("was deleted" in sentence for sentence in told) == 1


def test_an_order_whose_answer_was_lost_is_not_struck_out_by_a_later_refusal(server: FireworksServer, tmp_path: Path) -> None:
    """It is refused the second time, as something that is there may be; only a deletion says that it is gone."""
    refuse = failing("POST", "/rlorTrainerJobs", 400, "no such thing")
    server.faults += [
        unheard(server, "POST", CREATE, times=1),
        lambda request: refuse(request) if server.trainers.trainers else None,
    ]
    trainer = of(server, tmp_path)
    with pytest.raises(BackendError, match="no such thing"):
        trainer.up()
    assert len(server.trainers.up) == 1 == len(ResourceLog(tmp_path).left())
    trainer.remove()
    assert not server.trainers.up and not ResourceLog(tmp_path).left()


def test_a_worker_that_has_lost_its_run_leaves_its_successors_trainer_alone(server: FireworksServer, tmp_path: Path) -> None:
    first, second = of(server, tmp_path), of(server, tmp_path)
    first.up()
    second.up()
    assert first.name == second.name
    first._count_from(time.monotonic() - 13 * 3600)
    first.remove()
    assert server.trainers.up == [second.name] and not server.count("DELETE", "")
    server.trainers.trainers[second.name].end("FAILED")
    third = of(server, tmp_path)
    third.up()
    second.remove()
    assert server.trainers.up == [third.name], "nor one that it has never seen"
    third.remove()
    assert not server.trainers.up and not ResourceLog(tmp_path).left()


def test_an_order_is_sent_once_a_try_and_what_is_there_already_is_ours(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(unheard(server, "POST", CREATE, times=1))
    server.trainers.walk = ["RUNNING"]
    told: list[str] = []
    trainer = of(server, tmp_path, told)

    def another_word_for_the_model(request: Request) -> None:
        for made in server.trainers.trainers.values():
            made.body["trainingConfig"]["baseModel"] = f"{MODEL}@1"

    server.faults.append(another_word_for_the_model)
    trainer.up()
    assert sum("It is asked again" in sentence for sentence in told) == 1, "the SDK did not ask again behind our back"
    assert server.trainers.up == [trainer.name]
    trainer.remove()


def test_a_trainer_that_is_said_to_be_there_and_is_not_shown_is_asked_for_again(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(failing("POST", "/rlorTrainerJobs", 409, "busy", times=1))
    told: list[str] = []
    trainer = of(server, tmp_path, told)
    trainer.up()
    assert any("and shows none" in sentence for sentence in told) and server.trainers.up == [trainer.name]
    trainer.remove()
