"""What the sampler refuses, and how it fails: with a sentence, and without taking others along."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from recipes.backends.local.loading import load_model
from recipes.backends.local.sampler import LocalSampler
from recipes.errors import BackendError, ConfigError, DataError
from recipes.rendering import load_tokenizer
from recipes.types import SampleResult, SamplingParams, StopReason
from tests.recipes.backends.local.tiny_models import MAX_POSITIONS, VOCAB_SIZE, tiny_model


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


def sample(sampler: LocalSampler, prompt: list[int], num_samples: int = 1, **params: Any) -> SampleResult:
    async def run() -> SampleResult:
        return await sampler.sample_async(prompt=prompt, params=SamplingParams(**params), num_samples=num_samples)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"temperature": -0.1}, "temperature must be 0 .greedy. or above, not -0.1"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"top_k": -2}, "top_k must be at least 1"),
        ({"stop": [""]}, "stop must be texts that are not empty"),
        ({"stop": ["end"]}, "Stop strings need a tokenizer"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
    ],
)
def test_a_setting_without_sense_is_named(params: dict[str, Any], sentence: str, executor: ThreadPoolExecutor) -> None:
    with pytest.raises(ConfigError, match=sentence):
        sample(LocalSampler(executor, tiny_model(), None), [5], **params)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ([], "The prompt is empty"),
        ([5, VOCAB_SIZE], f"token id {VOCAB_SIZE}, but the model's vocabulary has {VOCAB_SIZE}"),
        ([5, -1], "token id -1"),
        ([5] * MAX_POSITIONS, f"has {MAX_POSITIONS} tokens, the model reads at most {MAX_POSITIONS} and needs space to answer"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(prompt: list[int], sentence: str, executor: ThreadPoolExecutor) -> None:
    with pytest.raises(DataError, match=sentence):
        sample(LocalSampler(executor, tiny_model(), None), prompt)


def test_a_prompt_that_fills_all_positions_can_still_be_scored(executor: ThreadPoolExecutor) -> None:
    sampler = LocalSampler(executor, tiny_model(), None)
    assert len(asyncio.run(sampler.compute_logprobs_async([5] * MAX_POSITIONS))) == MAX_POSITIONS
    with pytest.raises(DataError, match="reads at most"):
        asyncio.run(sampler.compute_logprobs_async([5] * (MAX_POSITIONS + 1)))


def test_diverged_weights_are_told_to_everyone_who_waits(executor: ThreadPoolExecutor) -> None:
    model = tiny_model()
    model.model.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    sampler = LocalSampler(executor, model, None)

    async def run() -> list[Any]:
        calls = [sampler.sample_async(prompt=[5 + i], params=SamplingParams(max_tokens=4)) for i in range(3)]
        return await asyncio.gather(*calls, return_exceptions=True)

    for error in asyncio.run(run()):
        assert isinstance(error, BackendError) and "diverged" in str(error)


def test_out_of_memory_becomes_a_sentence_and_the_next_call_works(executor: ThreadPoolExecutor) -> None:
    model = tiny_model()
    failures = [True]

    def run_out_once(module: Any, inputs: Any) -> None:
        if failures and inputs[0].shape[0] == 5:
            failures.clear()
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    model.get_input_embeddings().register_forward_pre_hook(run_out_once)
    sampler = LocalSampler(executor, model, None)
    with pytest.raises(BackendError, match=r"Out of memory while sampling\. Lower max_tokens"):
        sample(sampler, [5], 5, max_tokens=5, seed=0)
    assert len(sample(sampler, [5], 5, max_tokens=5, seed=0).sequences) == 5


def test_a_call_given_up_does_not_hold_up_or_harm_the_others(executor: ThreadPoolExecutor) -> None:
    model = tiny_model()
    alone = sample(LocalSampler(executor, model, None), [9, 9], 2, max_tokens=40, seed=4)
    sampler = LocalSampler(executor, model, None)

    async def run() -> SampleResult:
        params = SamplingParams(max_tokens=40, seed=4)
        given_up = asyncio.ensure_future(sampler.sample_async(prompt=[7], params=params, num_samples=50))
        kept = asyncio.ensure_future(sampler.sample_async(prompt=[9, 9], params=params, num_samples=2))
        await asyncio.sleep(0.02)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        return await kept

    assert [s.tokens for s in asyncio.run(run()).sequences] == [s.tokens for s in alone.sequences]


def test_after_closing_a_sentence_comes_back_instead_of_silence() -> None:
    pool = ThreadPoolExecutor(1)
    sampler = LocalSampler(pool, tiny_model(), None)
    pool.shutdown()
    with pytest.raises(BackendError, match="The local backend is closed"):
        sample(sampler, [5])


def test_a_stop_text_is_found_across_token_borders(executor: ThreadPoolExecutor) -> None:
    tokenizer = load_tokenizer("starter")
    sampler = LocalSampler(executor, load_model("starter", torch.device("cpu"), torch.float32), tokenizer)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 47 + 38?"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    free = sample(sampler, prompt, 1, max_tokens=40, temperature=0.0).sequences[0]
    text = tokenizer.decode(free.tokens)
    assert text.startswith("Answer: ") and len(tokenizer.encode(text[5:9], add_special_tokens=False)) > 1
    stopped = sample(sampler, prompt, 1, max_tokens=40, temperature=0.0, stop=["nowhere", text[5:9]]).sequences[0]
    assert stopped.stop_reason is StopReason.STOP
    assert stopped.tokens == free.tokens[: len(stopped.tokens)] and len(stopped.tokens) < len(free.tokens)
    assert text[5:9] in tokenizer.decode(stopped.tokens)
    assert text[5:9] not in tokenizer.decode(stopped.tokens[:-1])
