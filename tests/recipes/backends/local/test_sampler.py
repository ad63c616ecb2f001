"""Sampling says what the model itself says, whoever else is in the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from recipes.backends.local.sampler import LocalSampler
from recipes.types import SampledSequence, SamplingParams, StopReason
from tests.recipes.backends.local.tiny_models import _COMMON, MODELS, VOCAB_SIZE, tiny_model

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [20 + i for i in range(18)], [33, 34, 35], [50, 51]]

# Models that cannot be padded: a window shorter than the rows, positions by distance from the end, no attention at all.
UNPADDED: dict[str, Callable[[], Any]] = {
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**_COMMON, sliding_window=12)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=2, n_head=2, eos_token_id=2)),
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, eos_token_id=2)),
}
ALL_MODELS = [*MODELS, *UNPADDED]


def any_model(kind: str) -> Any:
    if kind in MODELS:
        return tiny_model(kind)
    torch.manual_seed(4)
    return UNPADDED[kind]().eval()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


def sample_all(
    sampler: LocalSampler, prompts: list[list[int]], num_samples: int = 1, **params: Any
) -> list[list[SampledSequence]]:
    async def run() -> list[list[SampledSequence]]:
        settings = SamplingParams(**params)
        calls = [sampler.sample_async(prompt=prompt, params=settings, num_samples=num_samples) for prompt in prompts]
        return [result.sequences for result in await asyncio.gather(*calls)]

    return asyncio.run(run())


def tokens_of(results: list[list[SampledSequence]]) -> list[list[list[int]]]:
    return [[sequence.tokens for sequence in sequences] for sequences in results]


def plain_logprobs(model: Any, prompt: list[int], said: list[int], temperature: float = 1.0) -> list[float]:
    """By one forward pass over everything, without a cache."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + said]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    logprobs: list[float] = (logits / temperature).log_softmax(-1).gather(1, torch.tensor(said)[:, None]).squeeze(1).tolist()
    return logprobs


@pytest.mark.parametrize("kind", ALL_MODELS)
def test_greedy_says_what_generate_says_token_for_token(kind: str, executor: ThreadPoolExecutor) -> None:
    model = any_model(kind)
    said = tokens_of(sample_all(LocalSampler(executor, model, None), PROMPTS, 2, max_tokens=24, temperature=0.0))
    for prompt, (first, second) in zip(PROMPTS, said, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, pad_token_id=0)
        assert first == second == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", ALL_MODELS)
def test_log_probabilities_are_those_of_one_plain_forward_pass(kind: str, executor: ThreadPoolExecutor) -> None:
    model = any_model(kind)
    sampler = LocalSampler(executor, model, None)
    for temperature in (1.0, 0.6):
        results = sample_all(sampler, PROMPTS, 3, max_tokens=12, temperature=temperature, top_k=20, seed=3)
        for prompt, sequences in zip(PROMPTS, results, strict=True):
            for sequence in sequences:
                assert sequence.logprobs == pytest.approx(plain_logprobs(model, prompt, sequence.tokens, temperature), abs=1e-4)


@pytest.mark.parametrize("kind", ["qwen3", "mamba"])
def test_a_seed_says_the_same_alone_in_company_in_any_order_and_in_a_batch_too_small(
    kind: str, executor: ThreadPoolExecutor
) -> None:
    model = any_model(kind)
    together = tokens_of(sample_all(LocalSampler(executor, model, None), PROMPTS, 4, max_tokens=20, seed=11))
    backwards = tokens_of(sample_all(LocalSampler(executor, model, None), PROMPTS[::-1], 4, max_tokens=20, seed=11))
    assert backwards[::-1] == together
    crowded = tokens_of(sample_all(LocalSampler(executor, model, None, max_rows=3), PROMPTS, 4, max_tokens=20, seed=11))
    assert crowded == together
    sampler = LocalSampler(executor, model, None)
    assert [tokens_of(sample_all(sampler, [prompt], 4, max_tokens=20, seed=11))[0] for prompt in PROMPTS] == together


def test_sample_i_draws_with_seed_plus_i_and_without_a_seed_every_call_differs(executor: ThreadPoolExecutor) -> None:
    sampler = LocalSampler(executor, tiny_model(), None)
    three = tokens_of(sample_all(sampler, PROMPTS[:1], 3, max_tokens=20, seed=7))[0]
    assert [tokens_of(sample_all(sampler, PROMPTS[:1], 1, max_tokens=20, seed=7 + i))[0][0] for i in range(3)] == three
    assert three[0] != three[1]
    assert sample_all(sampler, PROMPTS[:1], 1, max_tokens=20) != sample_all(sampler, PROMPTS[:1], 1, max_tokens=20)


def test_calls_made_while_others_are_decoded_join_them_and_say_what_they_would_alone(executor: ThreadPoolExecutor) -> None:
    model = tiny_model()
    alone = [tokens_of(sample_all(LocalSampler(executor, model, None), [p], 2, max_tokens=40, seed=2))[0] for p in PROMPTS]
    sampler = LocalSampler(executor, model, None)

    async def run() -> list[list[list[int]]]:
        calls = []
        for prompt in PROMPTS:
            params = SamplingParams(max_tokens=40, seed=2)
            calls.append(asyncio.ensure_future(sampler.sample_async(prompt=prompt, params=params, num_samples=2)))
            await asyncio.sleep(0.01)
        return [[sequence.tokens for sequence in (await call).sequences] for call in calls]

    assert asyncio.run(run()) == alone


def test_a_prompt_is_read_once_for_all_its_samples(executor: ThreadPoolExecutor) -> None:
    model = tiny_model()
    shapes: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    sampler = LocalSampler(executor, model, None)
    sample_all(sampler, PROMPTS[:1], 8, max_tokens=1)
    shapes.clear()
    sample_all(sampler, PROMPTS[:1], 8, max_tokens=2, seed=1)
    assert shapes == [(1, len(PROMPTS[0])), (8, 1)]


def test_the_end_of_turn_and_a_stop_id_end_a_row_and_are_said(executor: ThreadPoolExecutor) -> None:
    model = tiny_model()
    free = sample_all(LocalSampler(executor, model, None), PROMPTS, 4, max_tokens=30, seed=5)
    for sequences in free:
        for sequence in sequences:
            assert 2 not in sequence.tokens[:-1]
            assert (sequence.stop_reason is StopReason.STOP) == (sequence.tokens[-1] == 2)
    long = free[0][0].tokens
    (stopped,) = sample_all(LocalSampler(executor, model, None), PROMPTS[:1], 1, max_tokens=30, seed=5, stop=[long[3]])
    assert stopped[0].tokens == long[: long.index(long[3]) + 1]
    assert stopped[0].stop_reason is StopReason.STOP
    assert len(stopped[0].logprobs) == len(stopped[0].tokens)


def test_a_row_ends_with_its_token_budget_or_with_the_models_positions(executor: ThreadPoolExecutor) -> None:
    sampler = LocalSampler(executor, tiny_model("gpt2"), None)
    prompt = [3 + i % 50 for i in range(60)]
    (sequences,) = sample_all(sampler, [prompt], 8, max_tokens=500, seed=1)
    assert max(len(sequence.tokens) for sequence in sequences) == 4
    assert {sequence.stop_reason for sequence in sequences if len(sequence.tokens) == 4} <= {StopReason.LENGTH, StopReason.STOP}
    assert all(len(s.tokens) == 2 for s in sample_all(sampler, [prompt], 1, max_tokens=2, temperature=0.0, stop=[60])[0])


def test_weights_given_are_put_in_place_without_touching_the_model(executor: ThreadPoolExecutor) -> None:
    model, name = tiny_model(), "model.layers.0.mlp.down_proj.weight"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = tiny_model()
    changed = torch.randn_like(other.get_parameter(name))
    other.get_parameter(name).data.copy_(changed)
    sampler = LocalSampler(executor, model, None, weights={name: changed})
    said = tokens_of(sample_all(sampler, PROMPTS, 2, max_tokens=16, seed=1))
    assert said == tokens_of(sample_all(LocalSampler(executor, other, None), PROMPTS, 2, max_tokens=16, seed=1))
    assert said != tokens_of(sample_all(LocalSampler(executor, model, None), PROMPTS, 2, max_tokens=16, seed=1))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_prompts_are_scored_beside_sampling_with_an_entry_per_token(executor: ThreadPoolExecutor) -> None:
    model = tiny_model("gemma2 with capped logits")
    sampler = LocalSampler(executor, model, None)
    prompt = PROMPTS[2]

    async def run() -> Any:
        result, alone = await asyncio.gather(
            sampler.sample_async(
                prompt=prompt, params=SamplingParams(max_tokens=2), include_prompt_logprobs=True, topk_prompt_logprobs=4
            ),
            sampler.compute_logprobs_async(prompt),
        )
        return result, alone, await sampler.compute_logprobs_async([9])

    result, alone, single = asyncio.run(run())
    assert single == [None]
    assert result.prompt_logprobs[0] is None and result.topk_prompt_logprobs[0] is None
    assert result.prompt_logprobs[1:] == pytest.approx(plain_logprobs(model, prompt[:1], prompt[1:]), abs=1e-4)
    assert alone[1:] == pytest.approx(result.prompt_logprobs[1:], abs=1e-5)
    assert len(result.topk_prompt_logprobs) == len(prompt)
    for likeliest, own in zip(result.topk_prompt_logprobs[1:], result.prompt_logprobs[1:], strict=True):
        values = [value for _, value in likeliest]
        assert len(likeliest) == 4 and values == sorted(values, reverse=True)
        assert own <= values[0] + 1e-6


def test_the_event_loop_keeps_ticking_while_rows_are_decoded(executor: ThreadPoolExecutor) -> None:
    sampler = LocalSampler(executor, tiny_model(), None)

    async def run() -> int:
        call = asyncio.ensure_future(
            sampler.sample_async(prompt=[5], params=SamplingParams(max_tokens=60, seed=0), num_samples=200)
        )
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.001)
            ticks += 1
        await call
        return ticks

    assert asyncio.run(run()) > 5
