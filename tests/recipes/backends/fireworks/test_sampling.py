"""Sampling in a session of the pool: the contract of all samplers, runs that learn from what they sample, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fireworks.training.sdk import DeploymentSampler

from recipes.backends.fireworks import FireworksBackend
from recipes.backends.fireworks.config import FireworksConfig
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import BackendError, ConfigError, ErrorKind
from recipes.protocols import Backend
from recipes.starter.tasks import draw_rows
from recipes.types import SamplingParams
from tests.recipes.algorithms.managed import broken, failing
from tests.recipes.backends.fireworks.completions import PATH
from tests.recipes.backends.fireworks.pool import KEY, MODEL, ROWS, Pool, config, train
from tests.recipes.backends.test_contract_sampling import (
    test_a_snapshot_is_not_moved_by_later_steps_and_the_reference_never_moves as test_a_snapshot_is_not_moved_by_later_steps,
)
from tests.recipes.backends.test_contract_sampling import (
    test_greedy_takes_the_likeliest_token_and_prompts_are_scored_on_request as test_prompts_are_scored_on_request,
)
from tests.recipes.backends.test_contract_sampling import (
    test_the_same_seed_says_the_same_and_its_log_probabilities_are_the_models as test_the_same_seed_says_the_same,
)
from tests.recipes.runs_under_test import Witness

__all__ = [
    "test_a_snapshot_is_not_moved_by_later_steps",
    "test_prompts_are_scored_on_request",
    "test_the_same_seed_says_the_same",
]

PROMPT = [1, 2, 3]
ONE = SamplingParams(max_tokens=4, seed=1)
RL: dict[str, Any] = {"verifier_name": "numeric", "max_tokens": 40, "grad_clip_norm": 1.0, "seed": 2}


@pytest.fixture
def play(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """play(scenario) opens a session, awaits scenario(backend), closes it. What is asked again is asked again at once."""
    monkeypatch.setattr(DeploymentSampler, "_RETRY_BASE_BACKOFF_S", 0.001)

    async def opened(scenario: Callable[[Backend], Awaitable[Any]], settings: Mapping[str, Any]) -> Any:
        backend = await FireworksBackend.open(
            FireworksConfig(base_url=root, **{"tokenizer": "starter", "step_seconds": 120, **settings}),
            model=ModelConfig(name=MODEL),
            algorithm=BaseAlgorithmConfig(lora_rank=4, seed=1),
            output_dir=tmp_path,
            secrets={"backend_api_key": KEY},
        )
        try:
            return await scenario(backend)
        finally:
            await backend.close()

    return lambda scenario, **settings: asyncio.run(opened(scenario, settings))


async def sampled(backend: Backend) -> list[int]:
    client = await backend.snapshot_sampling_client()
    return (await client.sample_async(prompt=PROMPT, params=ONE)).sequences[0].tokens


def tasks(count: int) -> list[Any]:
    return [json.loads(line) for line in (ROWS / "tasks_train.jsonl").read_text().splitlines()[:count]]


def test_a_run_of_rl_learns_and_each_step_samples_from_the_weights_as_they_are(root: str, tmp_path: Path) -> None:
    seen = Witness()
    run = config(root, "rl", **RL, num_samples=8, batch_size=4, num_epochs=5, learning_rate=1e-2, lora_rank=8)
    result = train(run, tmp_path, seen, rows=tasks(4))
    assert result.status == "completed", result.error
    rewards = [values["reward/mean"] for values in seen.steps.values()]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.2
    assert all(values["kl/sampler"] < 1e-3 and values["rollout/errors"] == 0 for values in seen.steps.values())


@pytest.mark.parametrize("loss", ["ppo", "cispo", "dro"])
def test_every_loss_of_rl_trains_there(root: str, tmp_path: Path, loss: str) -> None:
    seen = Witness()
    run = config(root, "rl", **RL, loss=loss, num_samples=4, batch_size=4, max_steps=1, drop_constant_reward=False)
    assert train(run, tmp_path, seen, rows=tasks(8)).error is None
    assert seen.steps[1]["train/ratio_mean"] == pytest.approx(1, abs=0.01)


def test_a_run_of_sdft_learns_from_the_five_likeliest_tokens_of_its_teacher(root: str, tmp_path: Path) -> None:
    seen = Witness()
    run = config(root, "sdft", topk=5, max_tokens=24, batch_size=8, max_steps=2, skip_first_n_tokens=0)
    assert train(run, tmp_path, seen, rows=draw_rows(16)).error is None
    assert seen.steps[2]["kl/teacher"] >= 0 and seen.steps[1]["train/teacher_entropy"] > 0


def test_a_run_of_rl_that_was_stopped_goes_on_in_a_new_session(root: str, tmp_path: Path) -> None:
    run = config(root, "rl", **RL, num_samples=4, batch_size=4, max_steps=2)
    assert train(run, tmp_path, Witness(stop_after=1), rows=tasks(8)).status == "cancelled"
    seen = Witness()
    assert train(run, tmp_path, seen, rows=tasks(8), resume=True).status == "completed"
    assert list(seen.steps) == [2] and seen.steps[2]["kl/sampler"] < 1e-3


def test_it_is_asked_below_the_session_in_ids_by_its_key(root: str, pool: Pool, play: Any) -> None:
    play(sampled)
    (asked,) = pool.completions.asked
    assert (asked["prompt"], asked["seed"], asked["temperature"], asked["max_tokens"]) == (PROMPT, 1, 1.0, 4)
    assert asked["raw_output"] is True and asked["logprobs"] is True and asked["top_k"] == 0
    _, _, _, session, _, snapshot = asked["model"].split("/", 5)
    assert session.startswith("ts-") and snapshot.startswith("acme/run-")
    assert pool.control.last("POST", PATH).headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, ErrorKind.REQUEST, "refused sampling"),
        (401, ErrorKind.AUTH, "Credentials"),
        (403, ErrorKind.AUTH, "may not do that"),
        (429, ErrorKind.RATE_LIMIT, "asked 7 times"),
        (503, ErrorKind.SERVER, "asked 7 times"),
    ],
)
def test_what_is_refused_or_fails_is_a_sentence(pool: Pool, play: Any, status: int, kind: ErrorKind, words: str) -> None:
    pool.control.faults.append(failing("POST", PATH, status, "the words of the pool"))
    with pytest.raises(BackendError, match=words) as caught:
        play(sampled)
    assert caught.value.kind is kind and "the words of the pool" in str(caught.value) and KEY not in str(caught.value)


def test_a_pool_that_is_busy_for_a_moment_is_asked_again(pool: Pool, play: Any) -> None:
    pool.control.faults.append(broken("POST", PATH, times=3, status=503))
    assert len(play(sampled)) == 4 and pool.control.count("POST", PATH) == 4


def test_one_that_never_answers_is_given_up_in_time(pool: Pool, play: Any) -> None:
    pool.completions.is_mute = True

    async def scenario(backend: Any) -> None:
        client = await backend.snapshot_sampling_client()
        backend._slots.seconds = 0.5  # here alone: opening and saving may take their time
        with pytest.raises(BackendError, match=r"within 0\.5 seconds") as caught:
            await client.sample_async(prompt=PROMPT, params=ONE)
        assert caught.value.kind is ErrorKind.TIMEOUT and not caught.value.permanent

    play(scenario)


def test_a_sample_that_nobody_awaits_is_broken_off(pool: Pool, play: Any) -> None:
    pool.completions.is_mute = True

    async def scenario(backend: Backend) -> None:
        client = await backend.snapshot_sampling_client()
        sampling = asyncio.ensure_future(client.sample_async(prompt=PROMPT, params=ONE))
        async with asyncio.timeout(300):
            while not pool.control.count("POST", PATH):
                await asyncio.sleep(0.01)
            sampling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sampling
            await asyncio.to_thread(pool.completions.broken_off.wait, 240)
        assert pool.completions.broken_off.is_set()

    play(scenario)


def test_log_probabilities_that_are_not_told_are_no_certainty(pool: Pool, play: Any) -> None:
    pool.completions.hides = {"sampling_logprob", "logprob"}

    async def scenario(backend: Backend) -> None:
        client = await backend.snapshot_sampling_client()
        (said,) = (await client.sample_async(prompt=PROMPT, params=ONE)).sequences
        assert said.tokens and all(value != value for value in said.logprobs)
        with pytest.raises(BackendError, match="told no log-probabilities of a prompt"):
            await client.compute_logprobs_async(PROMPT)

    play(scenario)


def test_a_session_whose_account_is_not_known_is_not_sampled_from(pool: Pool, play: Any) -> None:
    pool.control.accounts = ["acme", "other"]
    with pytest.raises(BackendError, match="names several"):
        play(sampled)


def test_more_likeliest_tokens_than_the_service_tells_are_refused_before_the_run(root: str) -> None:
    with pytest.raises(ConfigError, match="lower topk"):
        config(root, "sdft")
    assert config(root, "sdft", topk=5)
