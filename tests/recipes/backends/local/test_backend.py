"""The backend as the loop sees it: nothing waits for a tensor, work runs in order, failures arrive as sentences."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.backends.local import LocalBackend
from recipes.backends.local.engine import Engine
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import BackendError, ConfigError
from recipes.types import AdamParams, ModelOutput
from tests.recipes.backends.local.tiny_models import datums, tiny_engine, tiny_model

ADAM = AdamParams(0.01)


def play(engine: Engine, scenario: Callable[[LocalBackend], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        backend = LocalBackend.around(engine)
        try:
            return await scenario(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


def test_the_event_loop_runs_while_a_step_is_computed(tmp_path: Path) -> None:
    """The step cannot end before the event loop has acted in the middle of it."""
    acted = threading.Event()

    def waiting_loss(model_output: ModelOutput, _: Any) -> Any:
        assert acted.wait(timeout=30), "the event loop stood still"
        return -model_output.logprobs.sum()

    async def scenario(backend: LocalBackend) -> None:
        step = asyncio.ensure_future(backend.forward_backward_custom_async(datums(3), waiting_loss))
        saved = asyncio.ensure_future(backend.save_full_state("behind"))
        for _ in range(3):
            await asyncio.sleep(0.01)
            assert not step.done() and not saved.done()
        acted.set()
        await step
        assert Path(await saved).is_dir()

    play(tiny_engine(tiny_model(), tmp_path), scenario)


def test_what_is_submitted_together_runs_in_order(tmp_path: Path) -> None:
    async def together(backend: LocalBackend) -> list[float]:
        work = []
        for seed in range(3):
            work.append(backend.forward_backward_async(datums(seed=seed), loss_fn="cross_entropy"))
            work.append(backend.optim_step_async(ADAM))  # type: ignore[arg-type]
        return [result.metrics.get("loss:sum", 0.0) for result in await asyncio.gather(*work)]

    async def one_by_one(backend: LocalBackend) -> list[float]:
        losses = []
        for seed in range(3):
            losses.append((await backend.forward_backward_async(datums(seed=seed), loss_fn="cross_entropy")).metrics["loss:sum"])
            await backend.optim_step_async(ADAM)
            losses.append(0.0)
        return losses

    expected = play(tiny_engine(tiny_model(), tmp_path), one_by_one)
    assert play(tiny_engine(tiny_model(), tmp_path), together) == expected


def test_a_future_that_nobody_awaits_any_more_still_runs_in_its_place(tmp_path: Path) -> None:
    async def scenario(backend: LocalBackend) -> float:
        abandoned = asyncio.ensure_future(backend.forward_backward_async(datums(), loss_fn="cross_entropy"))
        await asyncio.sleep(0)
        await backend.optim_step_async(ADAM)
        assert abandoned.done()
        return (await backend.optim_step_async(ADAM)).metrics["optim/grad_norm"]

    assert play(tiny_engine(tiny_model(), tmp_path), scenario) == 0.0


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
        ),
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_a_sentence_that_says_what_to_lower(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny_engine(tiny_model(), tmp_path, max_tokens_per_micro_batch=77)

    def exhausted(*_: Any, **__: Any) -> None:
        raise error

    async def scenario(backend: LocalBackend) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(engine.model.base_model, "forward", exhausted)
            with pytest.raises(BackendError, match="max_tokens_per_micro_batch is 77: lower it") as caught:
                await backend.forward_backward_async(datums(), loss_fn="cross_entropy")
            assert caught.value.permanent
        with pytest.raises(BackendError, match="Out of memory"):
            await backend.optim_step_async(ADAM)
        await backend.forward_backward_async(datums(), loss_fn="cross_entropy")
        await backend.optim_step_async(ADAM)

    play(engine, scenario)


def test_a_mistake_in_the_program_stays_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    async def scenario(backend: LocalBackend) -> None:
        monkeypatch.setattr(engine.model.base_model, "forward", broken)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            await backend.forward_async(datums())

    play(engine, scenario)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda logprobs: logprobs, "one scalar tensor per datum, not shape"),
        (lambda logprobs: 3.0, "not float"),
        (lambda logprobs: None, "not NoneType"),
    ],
)
def test_a_custom_loss_that_gives_no_scalar_is_told_so(returned: Any, message: str, tmp_path: Path) -> None:
    async def scenario(backend: LocalBackend) -> None:
        def custom(model_output: ModelOutput, meta: Any) -> Any:
            return returned(model_output.logprobs)

        with pytest.raises(BackendError, match=message):
            await backend.forward_backward_custom_async(datums(), custom)

    play(tiny_engine(tiny_model(), tmp_path), scenario)


def test_a_custom_loss_that_ignores_the_model_has_gradient_zero(tmp_path: Path) -> None:
    async def scenario(backend: LocalBackend) -> None:
        result = await backend.forward_backward_custom_async(datums(3), lambda *_: torch.tensor(2.0))
        assert result.metrics["loss:sum"] == 6.0
        assert (await backend.optim_step_async(ADAM)).metrics == {"optim/grad_norm": 0.0}

    play(tiny_engine(tiny_model(), tmp_path), scenario)


def test_a_loss_that_is_not_finite_is_reported_and_not_learnt(tmp_path: Path) -> None:
    async def scenario(backend: LocalBackend) -> None:
        before = (await backend.forward_async(datums())).metrics["loss:sum"]
        result = await backend.forward_backward_custom_async(
            datums(), lambda model_output, _: model_output.logprobs.sum() * float("nan")
        )
        assert result.metrics["loss:sum"] != result.metrics["loss:sum"]
        metrics = (await backend.optim_step_async(ADAM)).metrics
        assert metrics["optim/skipped_nonfinite"] == 1
        assert (await backend.forward_async(datums())).metrics["loss:sum"] == before

    play(tiny_engine(tiny_model(), tmp_path), scenario)


async def opened(name: str, output_dir: Path, **algorithm: Any) -> LocalBackend:
    return await LocalBackend.open(
        LocalBackend.Config(num_threads=1),
        model=ModelConfig(name=name),
        algorithm=BaseAlgorithmConfig(**algorithm),
        output_dir=output_dir,
    )


def test_a_model_without_a_tokenizer_trains_and_says_so_when_asked(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")

    async def scenario() -> None:
        backend = await opened(str(tmp_path / "model"), tmp_path, lora_rank=0)
        result = await backend.forward_backward_async(datums(), loss_fn="cross_entropy")
        assert result.metrics["loss:sum"]
        await backend.optim_step_async(ADAM)
        assert Path(await backend.save_for_sampler("a")).is_dir()
        with pytest.raises(ConfigError, match="tokenizer"):
            backend.get_tokenizer()
        await backend.close()

    asyncio.run(scenario())


def test_the_starters_whole_weights_are_saved_with_its_tokenizer(tmp_path: Path) -> None:
    async def scenario() -> str:
        backend = await opened("starter", tmp_path, lora_rank=0)
        path = await backend.save_for_sampler("a")
        await backend.close()
        return path

    folder = Path(asyncio.run(scenario()))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}

    async def again() -> int:
        backend = await opened(str(folder), tmp_path, lora_rank=4)
        return len(backend.get_tokenizer())

    assert asyncio.run(again()) > 100


def test_a_model_that_is_none_is_refused_on_opening(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it has no config.json"):
        asyncio.run(opened(str(tmp_path), tmp_path))


def test_the_same_seed_begins_with_the_same_adapters(tmp_path: Path) -> None:
    async def losses(seed: int) -> list[float]:
        backend = await opened("starter", tmp_path, seed=seed)
        data = datums()
        values = []
        for _ in range(3):
            values.append((await backend.forward_backward_async(data, loss_fn="cross_entropy")).metrics["loss:sum"])
            await backend.optim_step_async(ADAM)
        await backend.close()
        return values

    first, same, other = (asyncio.run(losses(seed)) for seed in (1, 1, 2))
    assert first == same
    assert first[0] == other[0]
    assert first[2] != other[2]
