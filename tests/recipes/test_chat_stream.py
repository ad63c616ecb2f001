"""Replies that are told while they are drawn, from tokens to text; and a checkpoint beside its base."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.backends.byte_tokenizer import ByteTokenizer
from recipes.backends.local import LocalBackend, LocalConfig
from recipes.backends.local.loading import load_model
from recipes.backends.local.sampler import LocalSampler
from recipes.backends.mock import MockBackend, MockConfig
from recipes.chat import MOST_HELD, LocalChat, TextPieces
from recipes.chat_pair import open_pair
from recipes.config import BackendChoice, BaseAlgorithmConfig, ModelConfig
from recipes.errors import CheckpointError, DataError
from recipes.protocols import StreamingClient
from recipes.rendering import load_tokenizer
from recipes.types import SampledSequence, SamplingParams

HELLO = [{"role": "user", "content": "What is 13 + 28?"}]
TEXTS = ["", "plain", "naïve café, 東京 🏔️🙂", "a  b\n\n c", "\U0001f9d1\u200d\U0001f680 in one piece"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["bytes", "starter"])
def test_pieces_are_whole_characters_and_add_up_to_the_text(text: str, kind: str) -> None:
    tokenizer: Any = ByteTokenizer() if kind == "bytes" else load_tokenizer("starter")
    tokens = tokenizer.encode(text, add_special_tokens=False)
    pieces = TextPieces(tokenizer)
    told = [pieces.add(token) for token in tokens] + [pieces.end()]
    assert "".join(told) == tokenizer.decode(tokens, skip_special_tokens=True)
    assert not any("\ufffd" in piece for piece in told)


def test_bytes_that_are_no_text_are_told_after_a_while_and_at_the_end() -> None:
    pieces = TextPieces(ByteTokenizer())
    told = [pieces.add(0xFF) for _ in range(MOST_HELD)]
    assert told[:-1] == [""] * (MOST_HELD - 1) and "\ufffd" in told[-1]
    assert pieces.add(0xE2) == "" and "\ufffd" in pieces.end()


@pytest.fixture
def sampler() -> Iterator[LocalSampler]:
    model = load_model("starter", torch.device("cpu"), torch.float32)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        yield LocalSampler(executor, model, load_tokenizer("starter"))


def stream(sampler: LocalSampler, prompt: list[int], params: SamplingParams) -> tuple[list[int], SampledSequence]:
    told: list[int] = []

    async def run() -> SampledSequence:
        return await sampler.stream_async(prompt=prompt, params=params, on_token=told.append)

    return told, asyncio.run(run())


def test_every_token_is_told_once_in_order_and_is_what_sampling_gives(sampler: LocalSampler) -> None:
    params = SamplingParams(max_tokens=20, seed=5)
    told, sequence = stream(sampler, [5, 6, 7], params)
    (plain,) = asyncio.run(sampler.sample_async(prompt=[5, 6, 7], params=params)).sequences
    assert told == sequence.tokens == plain.tokens and len(told) > 1
    assert isinstance(sampler, StreamingClient)


def test_tokens_come_while_others_are_still_to_be_drawn(sampler: LocalSampler) -> None:
    async def run() -> tuple[int, int]:
        told: list[int] = []
        params = SamplingParams(max_tokens=400, temperature=3.0, seed=1)
        work = asyncio.create_task(sampler.stream_async(prompt=[5], params=params, on_token=told.append))
        while not told:
            await asyncio.sleep(0)
        early = len(told)
        await work
        return early, len(told)

    early, all_told = asyncio.run(run())
    assert early < all_told


def test_cancelling_ends_the_sampling(sampler: LocalSampler) -> None:
    async def run() -> int:
        told: list[int] = []
        params = SamplingParams(max_tokens=500, temperature=5.0, seed=1)
        work = asyncio.create_task(sampler.stream_async(prompt=[5], params=params, on_token=told.append))
        while not told:
            await asyncio.sleep(0.001)
        work.cancel()
        await asyncio.wait({work})
        await sampler.sample_async(prompt=[6], params=SamplingParams(max_tokens=1))  # comes after it in the same thread
        return len(told)

    assert asyncio.run(run()) < 500


def test_a_prompt_beyond_the_window_is_a_sentence(sampler: LocalSampler) -> None:
    with pytest.raises(DataError, match="has 600 tokens, the model reads at most 512 and needs space to answer"):
        stream(sampler, [5] * 600, SamplingParams())


async def mock_checkpoint(folder: Path) -> str:
    opened = await MockBackend.open(MockConfig(), model=ModelConfig(), algorithm=BaseAlgorithmConfig(), output_dir=folder)
    opened._table[:, ord("x")] = 50.0  # it says nothing but x
    try:
        return await opened.save_for_sampler("final")
    finally:
        await opened.close()


def test_a_sampler_that_cannot_stream_tells_all_at_once_and_the_base_is_no_checkpoint(tmp_path: Path) -> None:
    async def run() -> tuple[list[str], str, str]:
        uri = await mock_checkpoint(tmp_path)
        told: list[str] = []
        async with open_pair("starter", uri, BackendChoice(kind="mock")) as pair:
            params = SamplingParams(max_tokens=5, seed=1)
            tuned = await pair.tuned.stream(HELLO, params, told.append)
            base = await pair.base.stream(HELLO, params, lambda text: None)
            return told, tuned.text, base.text

    told, tuned, base = asyncio.run(run())
    assert told == ["xxxxx"] and tuned == "xxxxx" and base != "xxxxx"


def test_an_adapter_shares_the_frozen_weights_with_its_base(tmp_path: Path) -> None:
    async def run() -> tuple[str, str]:
        algorithm = BaseAlgorithmConfig(lora_rank=2)
        made = await LocalBackend.open(LocalConfig(), model=ModelConfig(), algorithm=algorithm, output_dir=tmp_path)
        uri = await made.save_for_sampler("final")
        await made.close()
        params = SamplingParams(max_tokens=16, seed=3)
        async with open_pair("starter", uri, BackendChoice()) as pair:
            replies = await asyncio.gather(*(chat.stream(HELLO, params, lambda text: None) for chat in (pair.tuned, pair.base)))
            assert isinstance(pair.tuned, LocalChat)
        return replies[0].text, replies[1].text

    tuned, base = asyncio.run(run())
    assert tuned == base  # an adapter fresh from the mint changes nothing, and the same seed draws the same


def test_a_checkpoint_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    async def run() -> None:
        async with open_pair("starter", str(tmp_path / "gone"), BackendChoice()):
            raise AssertionError("it opened")

    with pytest.raises(CheckpointError, match="holds neither an adapter nor a model"):
        asyncio.run(run())
