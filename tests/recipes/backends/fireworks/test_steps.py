"""Training step by step through Fireworks' own SDK, on our Tinker-compatible server, which speaks what that SDK speaks."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.backends.fireworks import FireworksBackend
from recipes.backends.fireworks.config import FireworksConfig
from recipes.backends.fireworks.steps import POOL
from recipes.backends.tinker import TinkerBackend
from recipes.backends.tinker.config import TinkerConfig
from recipes.config import BaseAlgorithmConfig, ModelConfig, RunConfig
from recipes.errors import BackendError, ConfigError, ErrorKind, RecipeError
from recipes.protocols import Backend
from tests.recipes.backends.conftest import ADAM, datums, learn, nll
from tests.recipes.backends.fireworks.pool import KEY, MODEL, ROWS, TINKER_KEY, Pool, config, train
from tests.recipes.runs_under_test import Killed, KilledAfter, Witness

STEPS = 4


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
            secrets={"backend_api_key": TINKER_KEY},
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


def test_a_run_of_sft_learns_and_keeps_states_by_the_services_names(root: str, tmp_path: Path) -> None:
    seen = Witness()
    run = config(root, "sft", ROWS / "train.jsonl", batch_size=16, max_steps=6, learning_rate=3e-3, save_every=3)
    assert train(run, tmp_path, seen).error is None
    assert seen.steps[6]["train/loss"] < 0.8 * seen.steps[1]["train/loss"]
    assert [each.name for each in seen.checkpoints] == ["step_3", "final"]
    assert all(str(each.state_path).startswith("fireworks://acme/run-") for each in seen.checkpoints)
    again, further = Witness(), config(root, "sft", ROWS / "train.jsonl", batch_size=16, max_steps=1, learning_rate=3e-3)
    further.model.init_from_checkpoint = seen.checkpoints[-1].sampler_path
    assert train(further, tmp_path / "further", again).error is None
    assert again.steps[1]["train/loss"] < 0.8 * seen.steps[1]["train/loss"], "it goes on from the model that was made"


def test_weights_that_are_no_model_there_are_not_begun_from(root: str) -> None:
    for weights in ("fireworks://acme/run-1/final-1", "/a/folder"):
        with pytest.raises(ConfigError, match=r"no training there can begin from it.*promote"):
            begun_from(config(root, "sft"), weights)
    begun_from(config(root, "sft"), "fireworks://accounts/acme/models/evsys-7")


def test_preferences_are_learnt_too(root: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} + {i}?", "chosen": str(2 * i), "rejected": str(2 * i + 1)} for i in range(8)]
    seen = Witness()
    result = train(config(root, "dpo", batch_size=8, max_steps=4), tmp_path, seen, rows=rows)
    assert result.status == "completed", result.error
    assert seen.steps[4]["rewards/margins"] > seen.steps[1]["rewards/margins"]


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


def begun_from(run: RunConfig, weights: str) -> RunConfig:
    values = run.model_dump()
    return RunConfig.from_values({**values, "model": {**values["model"], "init_from_checkpoint": weights}})


def short(root: str) -> RunConfig:
    return config(root, "sft", ROWS / "train.jsonl", batch_size=4, max_steps=STEPS, learning_rate=3e-3, save_every=2)


@pytest.fixture(scope="module")
def undisturbed(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    pool.renew()
    seen = Witness()
    assert train(short(pool.url), tmp_path_factory.mktemp("undisturbed"), seen).error is None
    return {step: values["train/loss"] for step, values in seen.steps.items()}


@pytest.mark.parametrize(
    ("killed", "resumed_at"),
    [(KilledAfter(saved=2), 2), (KilledAfter(3), 2)],
    ids=["between checkpoint and next step", "between two steps"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    root: str, tmp_path: Path, undisturbed: dict[int, float], killed: KilledAfter, resumed_at: int
) -> None:
    with pytest.raises(Killed):
        train(short(root), tmp_path, killed)
    seen = Witness()
    result = train(short(root), tmp_path, seen, resume=True)
    assert (result.status, result.steps, seen.start_step) == ("completed", STEPS, resumed_at), result.error
    assert [each.name for each in seen.checkpoints][-1] == "final"
    assert {step: values["train/loss"] for step, values in seen.steps.items()} == pytest.approx(
        {step: loss for step, loss in undisturbed.items() if step > resumed_at}, rel=1e-6
    )


def test_a_state_that_the_service_does_not_find_is_a_sentence_and_nothing_is_trained(
    pool: Pool, root: str, tmp_path: Path
) -> None:
    assert train(short(root), tmp_path, Witness(stop_after=1)).status == "cancelled"
    pool.forget()
    seen = Witness()
    result = train(short(root), tmp_path, seen, resume=True)
    assert result.status == "failed" and "refused loading fireworks://acme/run-" in (result.error or "") and not seen.steps
