"""Training step by step through Fireworks' own SDK, on our Tinker-compatible server, which speaks what that SDK speaks."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

import recipes
from recipes import starter
from recipes.backends.fireworks import FireworksBackend
from recipes.backends.fireworks.config import FireworksConfig
from recipes.backends.fireworks.steps import POOL
from recipes.backends.local.config import LocalConfig
from recipes.backends.tinker import TinkerBackend
from recipes.backends.tinker.config import TinkerConfig
from recipes.config import BaseAlgorithmConfig, ModelConfig, RunConfig
from recipes.errors import BackendError, ConfigError, ErrorKind, RecipeError
from recipes.protocols import Backend
from recipes.tinker_server import make_server
from recipes.types import RunResult
from tests.recipes.backends.conftest import ADAM, datums, learn, nll
from tests.recipes.runs_under_test import Witness

KEY = "tml-key-of-a-test"
MODEL = "accounts/fireworks/models/qwen3-8b"
ROWS = Path(starter.__file__).parent / "rows"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the pool lies below a path, as at Fireworks."""
    app = make_server([f"{MODEL}=starter"], root=tmp_path_factory.mktemp("pool"), key=KEY, config=LocalConfig(num_threads=1))
    outer = Starlette(routes=[Mount(POOL, app=app)], lifespan=lambda _: app.router.lifespan_context(app))
    server = uvicorn.Server(uvicorn.Config(outer, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def opened(
    root: str, use: Callable[[Backend], Awaitable[Any]], *, key: str = KEY, rank: int = 4, model: str = MODEL, **settings: Any
) -> Any:
    async def play() -> Any:
        backend = await FireworksBackend.open(
            FireworksConfig(base_url=root, **{"tokenizer": "starter", "step_seconds": 60, **settings}),
            model=ModelConfig(name=model),
            algorithm=BaseAlgorithmConfig(lora_rank=rank, seed=1),
            output_dir=Path("unused"),
            secrets={"backend_api_key": key},
        )
        try:
            return await use(backend)
        finally:
            await backend.close()

    return asyncio.run(play())


async def nothing(backend: Backend) -> None:
    return None


def test_it_learns_what_the_tinker_backend_learns(root: str) -> None:
    async def scenario(backend: Backend) -> list[float]:
        data = datums(backend)
        return [await nll(backend, data), await learn(backend, data, steps=3), await nll(backend, data)]

    async def by_tinker() -> list[float]:
        settings = TinkerConfig(base_url=f"{root}{POOL}", tokenizer="starter")
        backend = await TinkerBackend.open(
            settings,
            model=ModelConfig(name=MODEL),
            algorithm=BaseAlgorithmConfig(lora_rank=4, seed=1),
            output_dir=Path("unused"),
            secrets={"backend_api_key": KEY},
        )
        try:
            return await scenario(backend)
        finally:
            await backend.close()

    found = opened(root, scenario)
    assert found[2] < found[0]
    # the SDKs differ in the scale of the adapters that they ask for, not in what the untouched model says
    assert found[0] == pytest.approx(asyncio.run(by_tinker())[0], rel=1e-5)


def test_log_probabilities_come_back_per_datum_and_validation_leaves_no_gradient(root: str) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        before = await nll(backend, data)
        result = await backend.forward_async(data)
        pairs = zip(data, result.loss_fn_outputs, strict=True)
        total = sum(float((datum.loss_fn_inputs["weights"] * output["logprobs"]).sum()) for datum, output in pairs)
        assert result.metrics["loss:sum"] == pytest.approx(-total, rel=1e-4)
        assert (await backend.optim_step_async(ADAM)).metrics["optim/grad_norm"] == 0
        assert await nll(backend, data) == before

    opened(root, scenario)


def test_a_gradient_that_is_refused_here_is_not_sent_and_the_session_lives_on(root: str) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        wrong = backend.forward_backward_async(data, loss_fn="no_such_loss")
        update = backend.optim_step_async(ADAM)
        with pytest.raises(RecipeError, match="no_such_loss"):
            await wrong
        with pytest.raises(BackendError, match="not taken"):
            await update
        with pytest.raises(ConfigError, match="loss of one's own"):
            await backend.forward_backward_custom_async(data, lambda output, meta: output.logprobs.sum())
        with pytest.raises(BackendError):
            await backend.optim_step_async(ADAM)
        before = await nll(backend, data)
        await learn(backend, data)
        assert await nll(backend, data) < before

    opened(root, scenario)


def config(root: str, kind: str, path: Path | None = None, **params: Any) -> RunConfig:
    return RunConfig.from_values(
        {
            "data": {"path": str(path or "unused.jsonl")},
            "model": {"name": MODEL},
            "algorithm": {"kind": kind, "params": {"lora_rank": 4, "learning_rate": 1e-3, **params}},
            "backend": {"kind": "fireworks", "params": {"base_url": root, "tokenizer": "starter", "step_seconds": 120}},
        }
    )


def train(run: RunConfig, folder: Path, *callbacks: Witness, rows: Any = None, resume: bool = False) -> RunResult:
    return recipes.train(
        run, run_id="1", output_dir=folder, rows=rows, secrets={"backend_api_key": KEY}, callbacks=callbacks, resume=resume
    )


def test_a_run_of_sft_learns_stops_and_goes_on(root: str, tmp_path: Path) -> None:
    run = config(root, "sft", ROWS / "train.jsonl", batch_size=16, max_steps=6, learning_rate=3e-3)
    whole, first, second = Witness(), Witness(stop_after=3), Witness()
    assert train(run, tmp_path / "whole", whole).status == "completed"
    losses = [whole.steps[step]["train/loss"] for step in range(1, 7)]
    assert losses[-1] < 0.8 * losses[0]
    assert train(run, tmp_path / "parts", first).status == "cancelled"
    assert train(run, tmp_path / "parts", second, resume=True).status == "completed"
    assert [second.steps[step]["train/loss"] for step in (4, 5, 6)] == pytest.approx(losses[3:], rel=1e-5)
    assert whole.checkpoints[-1].sampler_path and "sampler_weights" in whole.checkpoints[-1].sampler_path


def test_preferences_are_learnt_too(root: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} + {i}?", "chosen": str(2 * i), "rejected": str(2 * i + 1)} for i in range(8)]
    seen = Witness()
    result = train(config(root, "dpo", batch_size=8, max_steps=4), tmp_path, seen, rows=rows)
    assert result.status == "completed", result.error
    assert seen.steps[4]["rewards/margins"] > seen.steps[1]["rewards/margins"]


@pytest.mark.parametrize("kind", ["rl", "sdft"])
def test_what_must_sample_is_refused_before_it_begins(root: str, kind: str) -> None:
    with pytest.raises(ConfigError):
        config(root, kind)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rank": 0}, "LoRA adapters only"),
        ({"tokenizer": None}, "name the model's tokenizer"),
        ({"model": "Qwen/Qwen3-8B"}, "no model of Fireworks"),
        ({"key": ""}, "needs a key"),
    ],
)
def test_what_cannot_work_is_said_before_a_session_begins(root: str, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        opened(root, nothing, **wrong)


def test_a_wrong_key_says_where_keys_are_kept(root: str) -> None:
    with pytest.raises(BackendError, match="Credentials") as caught:
        opened(root, nothing, key="wrong")
    assert caught.value.permanent and caught.value.kind is ErrorKind.AUTH


def test_nobody_listens_there_and_that_is_found_out_in_time() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(BackendError):
        opened(url, nothing, step_seconds=2)
    assert time.monotonic() - began < 20


def test_an_sdk_that_cannot_be_imported_says_what_to_install(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fireworks.training", None)
    with pytest.raises(ConfigError, match="pip install fireworks-ai urllib3 requests"):
        opened(root, nothing)
