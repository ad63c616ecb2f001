"""A dedicated trainer that does not come, comes late, is refused, or is left by a killed worker: none is left to cost."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fireworks._base_client
import pytest

from recipes.backends.fireworks import FireworksBackend, provisioning
from recipes.backends.fireworks import trainers as trainers_module
from recipes.backends.fireworks.config import FireworksConfig
from recipes.backends.fireworks.provisioning import DedicatedTrainer
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import BackendError, ConfigError
from recipes.resources import Resource, ResourceLog
from recipes.types import LoopState, RunResult
from tests.fireworks_server import ACCOUNT, KEY, MODEL, FireworksServer, fireworks_server
from tests.fireworks_trainers import SHAPE, WHOLE_SHAPE, Trainer
from tests.recipes.algorithms.managed import broken, failing, unheard
from tests.recipes.backends.fireworks.pool import config, train
from tests.recipes.runs_under_test import Witness, chats

CREATE, LOOK = r"/rlorTrainerJobs$", r"/rlorTrainerJobs/[^/:]+$"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FireworksServer]:
    """Under an SDK that tries again at once, as often as ever. Nothing speaks the training protocol."""
    monkeypatch.setattr(fireworks._base_client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(provisioning, "POLL_SECONDS", 0.05)
    with fireworks_server() as made:
        yield made


def trained(server: FireworksServer, folder: Path, *callbacks: Witness, **backend: Any) -> RunResult:
    """A run that ends before its first step."""
    chosen = {"trainer": "dedicated", "accept_billing": True, "training_shape": SHAPE, "ready_seconds": 120, **backend}
    return train(config(server.url, "sft", backend=chosen), folder, *callbacks, rows=chats(2))


def of(server: FireworksServer, folder: Path, told: list[str] | None = None, **backend: Any) -> DedicatedTrainer:
    values = {"base_url": server.url, "training_shape": SHAPE, "outage_seconds": 120, "ready_seconds": 120, **backend}
    heard = told if told is not None else []
    return DedicatedTrainer(
        FireworksConfig(**values),
        KEY,
        model=ModelConfig(name=MODEL),
        algorithm=BaseAlgorithmConfig(lora_rank=4),
        run_dir=folder,
        tell=lambda level, sentence: heard.append(sentence),
    )


@pytest.mark.fault("A dedicated trainer does not come", "Given up after the stated time, and deleted; nothing is left to cost.")
def test_one_that_waits_for_capacity_when_it_is_given_up_is_deleted(server: FireworksServer, tmp_path: Path) -> None:
    server.trainers.walk, server.trainers.message = ["PENDING"], "waiting for 8 × H200"
    seen = Witness()
    error = trained(server, tmp_path, seen, ready_seconds=1).error or ""
    assert "was still PENDING and not ready after 1 seconds, as long as ready_seconds allows" in error
    assert any("says of the trainer PENDING: waiting for 8 × H200" in message for _, message in seen.events)
    assert [each.state for each in server.trainers.trainers.values()] == ["ARCHIVED"]
    assert not ResourceLog(tmp_path).left()


def test_one_that_runs_and_never_answers_is_given_up_and_deleted(server: FireworksServer, tmp_path: Path) -> None:
    server.trainers.walk, server.trainers.num_deaf = ["RUNNING"], 10**6
    assert "was still RUNNING and not ready" in (trained(server, tmp_path, ready_seconds=1).error or "")
    assert not server.trainers.up and not ResourceLog(tmp_path).left()


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "PAUSED"])
def test_one_that_ends_while_it_is_waited_for_is_told_in_its_words_and_deleted(
    server: FireworksServer, tmp_path: Path, state: str
) -> None:
    server.trainers.walk, server.trainers.message = ["PENDING", state], "no image for this model."
    assert f"is {state}: no image for this model." in (trained(server, tmp_path).error or "")
    assert [each.state for each in server.trainers.trainers.values()] == ["ARCHIVED"]
    assert not ResourceLog(tmp_path).left()


def test_one_that_somebody_deletes_there_ends_the_wait(server: FireworksServer, tmp_path: Path) -> None:
    server.trainers.walk = ["PENDING", "ARCHIVED"]
    assert "is gone: somebody deleted it there" in (trained(server, tmp_path).error or "")
    assert not ResourceLog(tmp_path).left()


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (402, "account suspended", "wants its billing settled first (the new trainer): account suspended"),
        (403, "not enabled", "Dedicated trainers are granted per account"),
        (429, "quota of H200 exhausted", "quota of H200 exhausted"),
        (400, "this base model has no trainer", "refused the new trainer (status 400): this base model has no trainer"),
    ],
)
def test_an_order_that_is_refused_is_a_sentence_and_leaves_nothing(
    server: FireworksServer, tmp_path: Path, status: int, said: str, words: str
) -> None:
    server.faults.append(failing("POST", "/rlorTrainerJobs", status, said))
    assert words in (trained(server, tmp_path, outage_seconds=1).error or "")
    assert not ResourceLog(tmp_path).left()


class StopsAt(Witness):
    """Asks for a stop, once, when it hears the words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        super().on_event(state, level, message)
        if self._words in message:
            state.request_stop()


def test_a_stop_while_it_is_waited_for_deletes_it(server: FireworksServer, tmp_path: Path) -> None:
    server.trainers.walk = ["PENDING"]
    seen = StopsAt("Ordered the trainer")
    assert trained(server, tmp_path, seen).status == "cancelled"
    assert [each.state for each in server.trainers.trainers.values()] == ["ARCHIVED"] and not ResourceLog(tmp_path).left()
    assert seen.calls == ["end"] and any("was deleted" in message for _, message in seen.events)


def test_a_stop_before_it_is_ordered_orders_none(server: FireworksServer, tmp_path: Path) -> None:
    assert trained(server, tmp_path, StopsAt("Preparing")).status == "cancelled"
    assert not server.trainers.trainers and not ResourceLog(tmp_path).left()


@pytest.mark.parametrize(
    ("method", "pattern"), [("GET", r"/accounts$"), ("GET", "/versions$"), ("POST", CREATE), ("GET", LOOK), ("DELETE", LOOK)]
)
def test_an_outage_at_any_question_is_waited_out(server: FireworksServer, tmp_path: Path, method: str, pattern: str) -> None:
    server.faults.append(broken(method, pattern, times=4, status=503))
    told: list[str] = []
    trainer = of(server, tmp_path, told)
    assert trainer.up() == f"{server.url}/training/v1/rlorTrainerJobs/{ACCOUNT}/{trainer.name}"
    trainer.remove()
    assert len(server.trainers.trainers) == 1 and not server.trainers.up and not ResourceLog(tmp_path).left()
    assert sum("It is asked again" in sentence for sentence in told) == 1


def test_an_order_whose_answer_is_lost_is_one_order(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(unheard(server, "POST", CREATE, times=4))
    trainer = of(server, tmp_path)
    trainer.up()
    trainer.remove()
    assert len(server.trainers.trainers) == 1 and not server.trainers.up


DYING = """
import os, signal, sys
from pathlib import Path
from recipes.backends.fireworks.provisioning import DedicatedTrainer
from recipes.backends.fireworks.trainers import FireworksTrainers
from recipes.backends.fireworks.config import FireworksConfig
from recipes.config import BaseAlgorithmConfig, ModelConfig

url, folder, when, key, model = sys.argv[1:]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if when == "before the order":
    FireworksTrainers.create = die
DedicatedTrainer(
    FireworksConfig(base_url=url),
    key,
    model=ModelConfig(name=model),
    algorithm=BaseAlgorithmConfig(lora_rank=4),
    run_dir=Path(folder),
    tell=lambda level, sentence: die() if sentence.startswith("Ordered") else None,
).up()
"""


@pytest.mark.fault(
    "kill -9 of a worker that orders a dedicated trainer, before the order and after it",
    "Whoever goes on trains in that trainer, or orders the only one.",
)
@pytest.mark.parametrize("when", ["before the order", "after it"])
def test_a_worker_that_is_killed_while_it_orders_leaves_one_that_is_found(
    server: FireworksServer, tmp_path: Path, when: str
) -> None:
    command = [sys.executable, "-c", DYING, server.url, str(tmp_path), when, KEY, MODEL]
    dead = subprocess.run(command, timeout=120, check=False, capture_output=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    (planned,) = ResourceLog(tmp_path).left()
    assert list(server.trainers.trainers) == ([] if when == "before the order" else [planned.name])
    trainer = of(server, tmp_path, training_shape=None)
    trainer.up()
    assert server.trainers.up == [trainer.name] and (trainer.name == planned.name) == (when == "after it")
    trainer.remove()
    assert not server.trainers.up and not ResourceLog(tmp_path).left()


def left(server: FireworksServer, folder: Path, walk: list[str], *, rank: int = 4) -> str:
    """By a worker that was killed."""
    name = "evsys-7-0123abcd"
    body = {"trainingConfig": {"baseModel": MODEL, "loraRank": rank}}
    server.trainers.trainers[name] = Trainer(body, walk)
    ResourceLog(folder).plan(Resource("trainer", name, ACCOUNT))
    return name


@pytest.mark.parametrize("walk", [["PENDING", "PENDING", "RUNNING"], ["RUNNING"]])
def test_one_that_is_left_is_taken_up_again(server: FireworksServer, tmp_path: Path, walk: list[str]) -> None:
    name, told = left(server, tmp_path, walk), list[str]()
    trainer = of(server, tmp_path, told)
    trainer.up()
    assert trainer.name == name and not server.count("POST", CREATE) and f"Found the trainer {name} again" in told[0]
    trainer.remove()
    assert not server.trainers.up and not ResourceLog(tmp_path).left()


@pytest.mark.parametrize(("walk", "rank"), [(["FAILED"], 4), (["COMPLETED"], 4), (["ARCHIVED"], 4), (["RUNNING"], 8)], ids=str)
def test_one_that_is_left_and_is_of_no_use_is_deleted_and_another_ordered(
    server: FireworksServer, tmp_path: Path, walk: list[str], rank: int
) -> None:
    name = left(server, tmp_path, walk, rank=rank)
    trainer = of(server, tmp_path)
    trainer.up()
    assert trainer.name != name and server.trainers.trainers[name].state == "ARCHIVED"
    assert server.trainers.up == [trainer.name] and [each.name for each in ResourceLog(tmp_path).left()] == [trainer.name]


def test_a_key_of_another_account_orders_no_second_one(server: FireworksServer, tmp_path: Path) -> None:
    left(server, tmp_path, ["RUNNING"])
    server.accounts = ["other"]
    with pytest.raises(BackendError, match=f"lies in the account {ACCOUNT}"):
        of(server, tmp_path).up()
    assert not server.count("POST", CREATE) and len(ResourceLog(tmp_path).left()) == 1


def test_gone_is_what_reads_as_gone(server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers_module, "ARCHIVED_SECONDS", 0.2)
    monkeypatch.setattr(provisioning, "DELETE_SECONDS", 0.5)
    server.trainers.leaves = ["DELETING"]
    told: list[str] = []
    trainer = of(server, tmp_path, told)
    trainer.up()
    trainer.remove()
    assert "was not deleted and may cost; `manage.py reap` tries again" in told[-1]
    assert f"still says DELETING after {0.2:g} seconds" in told[-1]
    (resource,) = ResourceLog(tmp_path).left()
    server.trainers.leaves = ["ARCHIVED"]
    jobs = FireworksBackend.jobs(FireworksConfig(base_url=server.url), secrets={"backend_api_key": KEY}, account=ACCOUNT)
    jobs.delete(resource)
    jobs.close()
    assert server.trainers.trainers[resource.name].state == "ARCHIVED"


def test_a_refusal_to_delete_is_told_and_it_stays_written_down(server: FireworksServer, tmp_path: Path) -> None:
    told: list[str] = []
    trainer = of(server, tmp_path, told)
    trainer.up()
    server.faults.append(failing("DELETE", "/rlorTrainerJobs/", 400, "somebody has locked it"))
    trainer.remove()
    assert "somebody has locked it" in told[-1] and "stops it after 15 idle minutes" in told[-1]
    assert len(ResourceLog(tmp_path).left()) == 1


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (SHAPE, "would train on 8 × NVIDIA_H200_141GB, billed per GPU-second while it is up: about $64.00 an hour (as of"),
        (WHOLE_SHAPE, "It trains no LoRA adapters"),
    ],
)
def test_what_an_hour_costs_is_told_and_nothing_made(server: FireworksServer, chosen: str, words: str) -> None:
    settings = FireworksConfig(base_url=server.url, training_shape=chosen)
    assert words in FireworksBackend.hourly_cost(settings, secrets={"backend_api_key": KEY})
    with pytest.raises(ConfigError, match="Name a training shape"):
        FireworksBackend.hourly_cost(FireworksConfig(base_url=server.url), secrets={"backend_api_key": KEY})
    assert not server.count("POST", "")


def test_what_an_earlier_worker_left_is_deleted_also_where_this_one_is_refused(server: FireworksServer, tmp_path: Path) -> None:
    name = left(server, tmp_path, ["RUNNING"])
    trainer = of(server, tmp_path, training_shape=WHOLE_SHAPE)
    with pytest.raises(ConfigError, match="trains no LoRA adapters"):
        trainer.up()
    trainer.remove()
    assert server.trainers.trainers[name].state == "ARCHIVED" and not ResourceLog(tmp_path).left()


def test_an_account_of_two_that_the_key_sees_is_taken_by_name(server: FireworksServer, tmp_path: Path) -> None:
    """The vendor's own manager refuses such a key; it is written nowhere."""
    server.accounts = [ACCOUNT, "other"]
    trainer = of(server, tmp_path, account_id=ACCOUNT)
    trainer.up()
    assert server.trainers.up == [trainer.name]
    assert server.last("GET", "/healthz$").headers["authorization"] == f"Bearer {KEY}"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]
