"""A checkpoint of the pool becomes a model of the account, whatever stands in its way, or the run says that it has not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import fireworks._base_client
import pytest

import recipes
from recipes.backends.fireworks import FireworksBackend, promotion
from recipes.backends.fireworks.config import FireworksConfig
from recipes.checkpoints import FINAL, Manifest
from recipes.config import BaseAlgorithmConfig, ModelConfig, RunConfig, check_pair
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.protocols import Backend
from recipes.registry import algorithms
from recipes.resources import Resource, ResourceLog
from recipes.types import Checkpoint, Task
from tests.fireworks_server import ACCOUNT, FireworksServer
from tests.recipes.algorithms.managed import broken, failing, unheard
from tests.recipes.backends.fireworks.pool import KEY, MODEL, ROWS, Pool, config, train
from tests.recipes.runs_under_test import Killed, KilledAfter, Witness

MODELS = f"accounts/{ACCOUNT}/models/"
PROMOTE = ":promote"


@pytest.fixture
def server(pool: Pool, root: str, monkeypatch: pytest.MonkeyPatch) -> FireworksServer:
    """Under an SDK that tries again at once, as often as ever."""
    monkeypatch.setattr(fireworks._base_client, "INITIAL_RETRY_DELAY", 0.001)
    return pool.control


def made(server: FireworksServer) -> list[str]:
    return [name for name in server.models if name.startswith(MODELS)]


def opened(root: str, folder: Path, use: Callable[[Backend], Awaitable[Any]], **settings: Any) -> tuple[Any, Witness]:
    seen = Witness()

    async def play() -> Any:
        backend = await FireworksBackend.open(
            FireworksConfig(base_url=root, **{"tokenizer": "starter", "step_seconds": 120, "outage_seconds": 60, **settings}),
            model=ModelConfig(name=MODEL),
            algorithm=BaseAlgorithmConfig(lora_rank=4, seed=1),
            output_dir=folder,
            secrets={"backend_api_key": KEY},
            report=lambda level, sentence: seen.events.append((level, sentence)),
        )
        try:
            return await use(backend)
        finally:
            await backend.close()

    return asyncio.run(play()), seen


async def final(backend: Backend) -> str:
    return await backend.save_for_sampler("final")


def said(seen: Witness, words: str) -> list[str]:
    return [level for level, message in seen.events if words in message]


def short(root: str, **backend: Any) -> RunConfig:
    return config(root, "sft", ROWS / "train.jsonl", backend=backend, batch_size=4, max_steps=2, save_every=1)


def evaluated(root: str, folder: Path, checkpoint: str | None) -> Any:
    values = {
        "model": {"name": MODEL, "checkpoint": checkpoint},
        "backend": {"kind": "fireworks", "params": {"base_url": root}},
        "serving": {"accept_billing": True, "ready_seconds": 120},
        "data": {"path": "unused.jsonl"},
        "verifier": {"kind": "contains"},
        "attempts": 1,
    }
    tasks = [Task("1", [{"role": "user", "content": "Well?"}], answer="know")]
    return recipes.evaluate(EvalConfig.from_values(values), tasks=tasks, run_dir=folder, secrets={"backend_api_key": KEY})


def test_the_last_checkpoint_of_a_run_is_a_model_that_an_eval_has_served(
    server: FireworksServer, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.serving.POLL_SECONDS", 0.1)
    seen = Witness()
    assert train(short(root), tmp_path / "7", seen).error is None
    first, last = seen.checkpoints
    (model,) = made(server)
    assert model.startswith(f"{MODELS}evsys-7-") and model.endswith("-final")
    assert last.sampler_path == f"fireworks://{model}" and not first.sampler_path.startswith(f"fireworks://{MODELS}")  # type: ignore[union-attr]
    assert said(seen, f"is a model at The server at {root.removeprefix('http://')} now: {model}") == ["info"]
    assert server.last("POST", PROMOTE).json == {"output_model": model, "base_model": MODEL}
    assert not ResourceLog(tmp_path / "7").left(), "it is the owner's now, and nobody reaps it"
    job, begun = algorithms.get("fireworks_sft"), ModelConfig(name=MODEL, init_from_checkpoint=last.sampler_path)
    check_pair(job, job.Config(), FireworksBackend, FireworksConfig(), begun)
    result = evaluated(root, tmp_path / "eval", last.sampler_path)
    assert (result.status, result.num_errors) == ("completed", 0), result.error
    assert server.last("POST", "/deployments$").json["baseModel"] == model


@pytest.mark.parametrize(("promote", "names"), [("all", ["step-1", "final"]), ("none", [])])
def test_the_setting_says_which_become_models(
    server: FireworksServer, root: str, tmp_path: Path, promote: str, names: list[str]
) -> None:
    assert train(short(root, promote=promote), tmp_path / "7").error is None
    assert [name.split("-", 3)[-1] for name in made(server)] == names
    assert server.count("POST", PROMOTE) == len(names)


def test_what_may_not_become_a_model_is_told_and_refused_later_on(server: FireworksServer, root: str, tmp_path: Path) -> None:
    server.faults.append(failing("POST", PROMOTE, 403, "an admin must do that"))
    uri, seen = opened(root, tmp_path, final)
    (level, sentence), *_ = [each for each in seen.events if "has become no model" in each[1]]
    assert level == "error" and "This key may not do that" in sentence and "an admin must do that" in sentence
    with pytest.raises(ConfigError, match=r"no deployment can serve it.*promote"):
        evaluated(root, tmp_path, uri)
    job = algorithms.get("fireworks_sft")
    begun = ModelConfig(name=MODEL, init_from_checkpoint=uri)
    with pytest.raises(ConfigError, match=r"no job can begin from it.*promote"):
        check_pair(job, job.Config(), FireworksBackend, FireworksConfig(), begun)


@pytest.mark.parametrize(
    ("trouble", "limit", "words"),
    [
        ({"promotable": False}, "LISTED_SECONDS", "says that it cannot become a model"),
        ({"num_unlisted": 10**6}, "LISTED_SECONDS", "does not list it"),
        ({"failure": "the adapter is broken"}, "", "could not make it: the adapter is broken"),
        ({"num_uploading": 10**6}, "READY_SECONDS", "did not finish the model"),
    ],
    ids=["not promotable", "never listed", "the operation fails", "never ready"],
)
def test_what_never_becomes_one_ends_in_a_sentence(
    server: FireworksServer,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: dict[str, Any],
    limit: str,
    words: str,
) -> None:
    if limit:
        monkeypatch.setattr(promotion, limit, 0.3)
    server.sessions.num_unlisted = 0
    for name, value in trouble.items():
        setattr(server.sessions, name, value)
    uri, seen = opened(root, tmp_path, final)
    assert uri.startswith("fireworks://acme/run-") and said(seen, words) == ["error"]
    assert bool(ResourceLog(tmp_path).left()) == (server.count("POST", PROMOTE) > 0), "the reaper looks what came of it"


@pytest.mark.fault("A hosted service answers 500 while a model is made of a checkpoint", "It is asked on; one model is made.")
@pytest.mark.parametrize("pattern", [r"/v1/accounts$", r"/checkpoints$", PROMOTE, "/models/"])
def test_an_outage_at_any_question_is_waited_through(server: FireworksServer, root: str, tmp_path: Path, pattern: str) -> None:
    server.faults.append(broken("POST" if pattern == PROMOTE else "GET", pattern, times=4, status=500))
    uri, seen = opened(root, tmp_path, final)
    assert uri == f"fireworks://{made(server)[0]}" and len(made(server)) == 1
    assert said(seen, "answers again") and ResourceLog(tmp_path).left(), "it is the owner's once a checkpoint names it"


def test_an_order_whose_answer_was_lost_is_not_made_twice(server: FireworksServer, root: str, tmp_path: Path) -> None:
    server.faults.append(unheard(server, "POST", PROMOTE, times=1))
    uri, _ = opened(root, tmp_path, final)
    assert [f"fireworks://{name}" for name in made(server)] == [uri]


def test_an_outage_that_does_not_end_is_given_up(server: FireworksServer, root: str, tmp_path: Path) -> None:
    server.faults.append(broken("POST", PROMOTE, status=503))
    uri, seen = opened(root, tmp_path, final, outage_seconds=1)
    assert not made(server) and said(seen, "That has lasted for 1 seconds") == ["error"]
    assert [each.kind for each in ResourceLog(tmp_path).left()] == ["model"]


def died_before_the_model_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(promotion.Promotion, "_await", dies)


def died_before_the_checkpoint_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Manifest.append

    def dies(manifest: Manifest, checkpoint: Checkpoint) -> None:
        if checkpoint.name == FINAL:
            raise Killed
        append(manifest, checkpoint)

    monkeypatch.setattr(Manifest, "append", dies)


@pytest.mark.parametrize("died", [died_before_the_model_is_waited_for, died_before_the_checkpoint_is_written_down])
@pytest.mark.fault(
    "kill of the worker while a hosted service makes a model of a checkpoint", "The resume makes it anew and deletes the first."
)
def test_killed_between_the_model_and_the_record_it_is_made_anew_and_the_first_is_deleted(
    server: FireworksServer,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    died: Callable[[pytest.MonkeyPatch], None],
) -> None:
    with monkeypatch.context() as worker:
        died(worker)
        with pytest.raises(Killed):
            train(short(root), tmp_path)
    (orphan,) = made(server)
    assert ResourceLog(tmp_path).left() == [Resource("model", orphan.removeprefix(MODELS), ACCOUNT)]
    seen = Witness()
    result = train(short(root), tmp_path, seen, resume=True)
    assert result.status == "completed", result.error
    assert [f"fireworks://{name}" for name in made(server)] == [seen.checkpoints[-1].sampler_path] != [f"fireworks://{orphan}"]
    assert not ResourceLog(tmp_path).left()


def test_a_model_that_a_checkpoint_names_is_nobodys_to_remove_however_the_worker_ended(
    server: FireworksServer, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as worker:
        worker.setattr(promotion.Promotion, "close", lambda self: None)
        with pytest.raises(Killed):
            train(short(root), tmp_path, KilledAfter(saved=2))
    log, (model,) = ResourceLog(tmp_path), made(server)
    assert not log.left() and Manifest(tmp_path).read()[-1].sampler_path == f"fireworks://{model}"
    promotion.Promotion(
        FireworksConfig(base_url=root), KEY, base_model=MODEL, run_dir=tmp_path, tell=lambda level, sentence: None
    ).close()
    (tmp_path / "checkpoints.jsonl").unlink()
    assert not log.left(), "also when the run is deleted"


def test_the_reaper_deletes_a_model_that_no_checkpoint_names(server: FireworksServer, root: str) -> None:
    server.models[f"{MODELS}evsys-7-left"] = {}
    jobs = FireworksBackend.jobs(FireworksConfig(base_url=root), secrets={"backend_api_key": KEY}, account=ACCOUNT)
    for _ in range(2):
        jobs.delete(Resource("model", "evsys-7-left", ACCOUNT))
        assert not made(server), "and one that is gone is gone"
    jobs.close()


def test_a_stop_at_once_does_not_wait_for_the_model(server: FireworksServer, root: str, tmp_path: Path) -> None:
    server.sessions.num_uploading = 10**6

    async def stopped(backend: Backend) -> float:
        saving = asyncio.ensure_future(backend.save_for_sampler("final"))
        deadline = time.monotonic() + 300
        while not server.count("POST", PROMOTE):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        saving.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await saving
        return began

    began, _ = opened(root, tmp_path, stopped)
    assert time.monotonic() - began < 300 < promotion.READY_SECONDS
    assert len(ResourceLog(tmp_path).left()) == 1
