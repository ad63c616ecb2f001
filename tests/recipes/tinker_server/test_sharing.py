"""Several clients at once: nobody keeps the thread for good, and what many snapshots take is bounded."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker

from recipes.backends.local import sampler as sampler_module
from recipes.backends.local.engine import Engine
from recipes.backends.local.sampler import LocalSampler
from recipes.tinker_server.models import EngineThread
from recipes.tinker_server.sessions import MOST_HELD
from recipes.types import SampledSequence, SamplingParams
from tests.recipes.tinker_server.test_refusals import told
from tests.recipes.tinker_server.test_training import ADAM, WAIT, datums, sent


def test_whoever_samples_on_and_on_lets_others_have_the_thread(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on where it was."""
    monkeypatch.setattr(sampler_module, "TURN_SECONDS", 0.0)
    order: list[str] = []
    sampling = SamplingParams(max_tokens=400, temperature=2.0, seed=1)
    thread = EngineThread()
    sampler = LocalSampler(thread, engine.plain_model, None, num_waiting=thread.num_waiting)

    async def ask() -> None:
        await sampler.sample_async(prompt=[5, 6], params=SamplingParams(max_tokens=1, seed=2))
        order.append("asked meanwhile")

    async def both() -> SampledSequence:
        later: list[asyncio.Future[None]] = []

        def come(_: int) -> None:
            if not later:
                later.append(asyncio.wrap_future(thread.submit(partial(order.append, "another's work"))))
                later.append(asyncio.ensure_future(ask()))

        found = await sampler.stream_async(prompt=[5, 6], params=sampling, on_token=come)
        await asyncio.gather(*later)
        return found

    try:
        found = asyncio.run(both())
    finally:
        thread.shutdown()
    assert order == ["another's work", "asked meanwhile"]
    assert thread.num_waiting() == 0
    with ThreadPoolExecutor(max_workers=1) as own:
        alone = LocalSampler(own, engine.plain_model, None)
        assert asyncio.run(alone.sample_async(prompt=[5, 6], params=sampling)).sequences[0].tokens == found.tokens


def test_scoring_that_fails_beside_a_resting_sample_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*args: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(sampler_module, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(sampler_module, "score", out_of_memory)
    thread = EngineThread()
    sampler = LocalSampler(thread, engine.plain_model, None, num_waiting=thread.num_waiting)
    params = SamplingParams(max_tokens=40, temperature=2.0, seed=1)

    async def both() -> tuple[SampledSequence, str]:
        later: list[asyncio.Future[Any]] = []

        def come(_: int) -> None:
            if not later:
                later.append(asyncio.wrap_future(thread.submit(lambda: None)))
                later.append(asyncio.ensure_future(sampler.compute_logprobs_async([5, 6])))

        found = await sampler.stream_async(prompt=[5, 6], params=params, on_token=come)
        _, error = await asyncio.gather(*later, return_exceptions=True)
        return found, str(error)

    try:
        found, sentence = asyncio.run(both())
        alone = asyncio.run(sampler.sample_async(prompt=[5, 6], params=params))
    finally:
        thread.shutdown()
    assert sentence.startswith("Out of memory while sampling.")
    assert found.tokens == alone.sequences[0].tokens


def test_work_that_is_called_off_counts_no_more() -> None:
    thread = EngineThread()
    go_on = asyncio.Event()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        held = loop.run_in_executor(thread, lambda: asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(60))
        behind = loop.run_in_executor(thread, lambda: None)
        behind.cancel()
        go_on.set()
        await held
        await loop.run_in_executor(thread, lambda: None)

    asyncio.run(scenario())
    thread.shutdown()
    assert thread.num_waiting() == 0


def test_snapshots_beyond_those_held_are_read_again_and_go_with_their_session(
    service: tinker.ServiceClient, training: tinker.TrainingClient, root: Path
) -> None:
    data = sent(datums())
    samplers, said = [], []
    params = tinker.SamplingParams(max_tokens=12, seed=3)

    def sample(sampler: tinker.SamplingClient) -> list[int]:
        return list(sampler.sample(tinker.ModelInput.from_ints([5, 6]), 1, params).result(timeout=WAIT).sequences[0].tokens)

    for _ in range(MOST_HELD + 2):
        samplers.append(training.save_weights_and_get_sampling_client().result(timeout=WAIT))
        said.append(sample(samplers[-1]))
        training.forward_backward(data, "cross_entropy")
        training.optim_step(ADAM).result(timeout=WAIT)
    assert len({tuple(each) for each in said}) > 1, "they differ, or the test says nothing"
    assert [sample(each) for each in samplers] == said
    session = training.get_info().model_id.partition(":")[0]
    kept = partial(root.glob, f"{session}-*/checkpoints/*.snapshot")
    assert len(list(kept())) == MOST_HELD + 2
    service.close("success").result(timeout=WAIT)
    assert not list(kept())


def test_a_checkpoint_that_was_saved_anew_is_not_taken_for_the_old_one(
    service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    path = training.save_weights_for_sampler("same").result(timeout=WAIT).path
    sampler = service.create_sampling_client(model_path=path).result(timeout=WAIT)
    training.save_weights_for_sampler("same").result(timeout=WAIT)
    prompt = tinker.ModelInput.from_ints([5, 6])
    sentence = told(lambda: sampler.sample(prompt, 1, tinker.SamplingParams(max_tokens=2)).result(timeout=WAIT))
    assert "was saved anew" in sentence


def test_what_is_no_number_is_told_as_such(training: tinker.TrainingClient) -> None:
    data = datums(1)
    data[0].loss_fn_inputs["weights"] = np.full_like(data[0].loss_fn_inputs["weights"], 3e38)
    gradient = training.forward_backward(sent(data), "cross_entropy")
    update = training.optim_step(ADAM).result(timeout=WAIT).metrics or {}
    assert np.isinf(gradient.result(timeout=WAIT).metrics["loss:sum"])
    assert np.isnan(update["grad_norm"]) and update["skipped_nonfinite"] == 1
