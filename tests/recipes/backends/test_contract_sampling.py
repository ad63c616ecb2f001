"""What every SamplingClient promises, asked of each backend that runs on a bare machine."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.protocols import Backend
from recipes.rendering import render_prompt
from recipes.types import SamplingParams, StopReason
from tests.recipes.backends.conftest import datums, learn
from tests.recipes.runs_under_test import chats


def test_a_snapshot_is_not_moved_by_later_steps_and_the_reference_never_moves(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        tokens = data[0].model_input.tolist()
        untrained = await (await backend.snapshot_sampling_client()).compute_logprobs_async(tokens)
        await learn(backend, data, steps=2)
        snapshot = await backend.snapshot_sampling_client("step_2")
        said = await snapshot.compute_logprobs_async(tokens)
        await learn(backend, data, steps=2)
        assert await snapshot.compute_logprobs_async(tokens) == pytest.approx(said, nan_ok=True)
        assert said[1:] != pytest.approx(untrained[1:], abs=1e-6)
        reference = await backend.reference_sampling_client()
        assert (await reference.compute_logprobs_async(tokens))[1:] == pytest.approx(untrained[1:], abs=1e-5)

    play(scenario)


def test_the_same_seed_says_the_same_and_its_log_probabilities_are_the_models(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        prompt = render_prompt(chats(3)[2]["messages"][:1], backend.get_tokenizer())
        client = await backend.snapshot_sampling_client()
        params = SamplingParams(max_tokens=12, temperature=1.0, seed=5)
        one, two = [await client.sample_async(prompt=prompt, params=params, num_samples=8) for _ in range(2)]
        assert [s.tokens for s in one.sequences] == [s.tokens for s in two.sequences]
        assert len({tuple(s.tokens) for s in one.sequences}) > 1
        for sequence in one.sequences:
            assert len(sequence.tokens) == len(sequence.logprobs) <= 12
            assert (sequence.stop_reason is StopReason.LENGTH) == (
                len(sequence.tokens) == 12 and sequence.tokens[-1] != backend.get_tokenizer().eos_token_id
            )
            scored = await client.compute_logprobs_async([*prompt, *sequence.tokens])
            assert scored[0] is None
            assert scored[len(prompt) :] == pytest.approx(sequence.logprobs, abs=1e-4)

    play(scenario)


def test_greedy_takes_the_likeliest_token_and_prompts_are_scored_on_request(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        prompt = render_prompt(chats(3)[2]["messages"][:1], backend.get_tokenizer())
        client = await backend.snapshot_sampling_client()
        result = await client.sample_async(
            prompt=prompt,
            params=SamplingParams(max_tokens=1, temperature=0.0),
            include_prompt_logprobs=True,
            topk_prompt_logprobs=3,
        )
        said = result.sequences[0].tokens
        assert result.prompt_logprobs is not None and result.topk_prompt_logprobs is not None
        assert len(result.prompt_logprobs) == len(result.topk_prompt_logprobs) == len(prompt)
        assert result.prompt_logprobs[0] is None and result.topk_prompt_logprobs[0] is None
        again = await client.sample_async(prompt=[*prompt, *said], params=SamplingParams(max_tokens=1), topk_prompt_logprobs=1)
        assert again.topk_prompt_logprobs is not None and again.topk_prompt_logprobs[-1] is not None
        assert again.topk_prompt_logprobs[-1][0][0] == said[0]

    play(scenario)
