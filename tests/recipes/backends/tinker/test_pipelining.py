"""What is submitted is on its way before anything is awaited; what is stopped is taken back; waits are told on the run."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import recipes
from recipes import starter
from recipes.backends.tinker import TinkerBackend, connection
from recipes.types import SamplingParams
from tests.recipes.backends.conftest import ADAM, datums
from tests.recipes.backends.tinker.test_failures import gradient, opened, when
from tests.recipes.backends.tinker.test_runs import SECRETS, config
from tests.recipes.runs_under_test import Witness
from tests.recipes.tinker_stack import fake_tinker

ROWS = Path(starter.__file__).parent / "rows"
NUM_SAMPLES = 6


def test_samples_are_in_flight_together() -> None:
    """No result is given before all of them were asked for: one after the other would wait for ever."""
    all_asked = threading.Event()

    def behave(called: str, body: dict[str, Any], before: int) -> tuple[int, Any] | None:
        if called == "create_sampling_session":
            return 200, {"type": "create_sampling_session", "sampling_session_id": "s:sample:0"}
        if called.startswith("samplers/"):
            return 200, {"sampler_id": "s:sample:0", "base_model": "starter"}
        if called == "asample":
            if before + 1 == NUM_SAMPLES:
                all_asked.set()
            return 200, {"request_id": "sample", "sample_sequence_ids": ["one"]}
        if called == "retrieve_future" and body.get("request_id") == "sample":
            assert all_asked.wait(60), "a sample was waited for before the next was asked for"
            return 200, {"error": "enough", "category": "user"}
        return None

    async def use(backend: TinkerBackend) -> list[Any]:
        sampler = await backend.reference_sampling_client()
        asked = [sampler.sample_async(prompt=[5, 6], params=SamplingParams(max_tokens=2)) for _ in range(NUM_SAMPLES)]
        return await asyncio.gather(*asked, return_exceptions=True)

    with fake_tinker(behave) as (url, fake):
        found = opened(url, use)
        assert fake.count("asample") == NUM_SAMPLES and all_asked.is_set()
    assert all("enough" in str(each) for each in found)


def test_several_steps_may_be_on_their_way_at_once() -> None:
    async def use(backend: TinkerBackend) -> None:
        asked = [
            work
            for _ in range(3)
            for work in (
                backend.forward_backward_async(datums(backend, 1), loss_fn="cross_entropy"),
                backend.optim_step_async(ADAM),
            )
        ]
        for _ in range(3000):
            if fake.count("forward_backward") == fake.count("optim_step") == 3:
                break
            await asyncio.sleep(0.02)
        assert fake.count("forward_backward") == fake.count("optim_step") == 3
        for work in asked:
            work.cancel()  # type: ignore[attr-defined]
        await asyncio.gather(*asked, return_exceptions=True)

    with fake_tinker(when("retrieve_future", 0, request_id="forward_backward")) as (url, fake):
        opened(url, use)


def test_a_wait_that_is_cancelled_ends_at_once_and_nobody_polls_any_more() -> None:
    async def use(backend: TinkerBackend) -> int:
        work = asyncio.ensure_future(gradient(backend))
        await asyncio.sleep(0.5)
        assert not work.done()
        began = time.monotonic()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert time.monotonic() - began < 30
        await asyncio.sleep(1)
        polls = fake.count("retrieve_future")
        await asyncio.sleep(0.6)
        return fake.count("retrieve_future") - polls

    def queued(called: str, body: dict[str, Any], before: int) -> tuple[int, Any] | None:
        if called == "retrieve_future" and body.get("request_id") == "forward_backward":
            time.sleep(0.1)
            return 200, {"type": "try_again", "request_id": "forward_backward", "queue_state": "paused_capacity"}
        return None

    with fake_tinker(queued) as (url, fake):
        assert opened(url, use) <= 1


def test_a_wait_is_an_event_of_the_run(tinker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are what the run's page lists."""
    monkeypatch.setattr(connection, "NOTE_SECONDS", 0.005)
    witness = Witness()
    run = config(tinker_url, "sft", ROWS / "train.jsonl", batch_size=64, max_steps=1)
    result = recipes.train(run, run_id="1", output_dir=tmp_path, secrets=SECRETS, callbacks=[witness])
    assert result.status == "completed"
    assert any(level == "info" and "still waiting" in sentence for level, sentence in witness.events)
