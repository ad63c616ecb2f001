"""Training step by step through Fireworks' own SDK, on our Tinker-compatible server, which speaks what that SDK speaks."""

from __future__ import annotations

import asyncio
import re
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


class Pool:
    """Our server below the pool's path, with checkpoints called as Fireworks calls them: account/run-…/name."""

    def __init__(self, app: Any) -> None:
        self._app = Starlette(routes=[Mount(POOL, app=app)], lifespan=lambda _: app.router.lifespan_context(app))
        self._ours: dict[bytes, bytes] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked, answer = await self._whole(receive), {}

        async def told() -> Any:
            return {"type": "http.request", "body": asked}

        async def keep(message: Any) -> None:
            answer.setdefault("start", message)
            answer["body"] = answer.get("body", b"") + message.get("body", b"")

        await self._app(self._sized(scope, asked), told, keep)
        body = re.sub(rb"tinker://([0-9a-f]{32}):train:\d+/(?:sampler_)?weights/([a-z0-9-]+)", self._named, answer["body"])
        await send(self._sized(answer["start"], body))
        await send({"type": "http.response.body", "body": body})

    async def _whole(self, receive: Any) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        for theirs, ours in self._ours.items():
            body = body.replace(theirs, ours)
        return body

    def _named(self, found: re.Match[bytes]) -> bytes:
        theirs = b"acme/run-%b/%b" % found.groups()
        self._ours[theirs] = found[0]
        return theirs

    def _sized(self, message: Any, body: bytes) -> Any:
        others = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
        return {**message, "headers": [*others, (b"content-length", str(len(body)).encode())]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    app = make_server([f"{MODEL}=starter"], root=tmp_path_factory.mktemp("pool"), key=KEY, config=LocalConfig(num_threads=1))
    outer = Pool(app)
    server = uvicorn.Server(uvicorn.Config(outer, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 90
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


def test_a_run_of_sft_learns_and_keeps_states_by_the_services_names(root: str, tmp_path: Path) -> None:
    seen = Witness()
    run = config(root, "sft", ROWS / "train.jsonl", batch_size=16, max_steps=6, learning_rate=3e-3, save_every=3)
    assert train(run, tmp_path, seen).error is None
    assert seen.steps[6]["train/loss"] < 0.8 * seen.steps[1]["train/loss"]
    assert [each.name for each in seen.checkpoints] == ["step_3", "final"]
    assert all(str(each.state_path).startswith("fireworks://acme/run-") for each in seen.checkpoints)


def test_a_state_is_asked_for_by_its_name_and_a_refusal_is_told(root: str, tmp_path: Path) -> None:
    """Our server loads weights as later Tinkers do, and says so to this SDK: no resume was seen."""
    run = config(root, "sft", ROWS / "train.jsonl", batch_size=16, max_steps=3)
    assert train(run, tmp_path, Witness(stop_after=1)).status == "cancelled"
    result = train(run, tmp_path, resume=True)
    assert result.status == "failed" and "refused loading fireworks://acme/run-" in (result.error or "")
    assert "Weights are loaded into a new model" in (result.error or "")


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
    assert time.monotonic() - began < 60, "the SDK by itself would try for minutes"


def test_an_sdk_that_cannot_be_imported_says_what_to_install(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fireworks.training", None)
    with pytest.raises(ConfigError, match="pip install fireworks-ai urllib3 requests"):
        opened(root, nothing)
