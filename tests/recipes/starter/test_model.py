"""The model that is shipped: small, chatty in one way, right now and then, so that there is something to learn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from recipes.backends.local.loading import load_model
from recipes.backends.local.models import resolve
from recipes.backends.local.sampler import LocalSampler
from recipes.rendering import load_tokenizer, render_prompt
from recipes.starter.tasks import draw_tasks, grade
from recipes.types import SamplingParams

NUM_TASKS = 60


@pytest.fixture(scope="module")
def sampler() -> Iterator[LocalSampler]:
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield LocalSampler(pool, load_model("starter", torch.device("cpu"), torch.float32), load_tokenizer("starter"))


def grades(sampler: LocalSampler, num_samples: int, system: str | None = None, **params: Any) -> list[list[float]]:
    """Of held-out tasks: a row per task, a column per attempt."""
    tokenizer = load_tokenizer("starter")
    tasks = draw_tasks("held_out")[:NUM_TASKS]
    opening = [{"role": "system", "content": system}] if system else []

    async def run() -> list[Any]:
        settings = SamplingParams(max_tokens=48, **params)
        prompts = [render_prompt(opening + task.messages, tokenizer) for task in tasks]
        return await asyncio.gather(
            *[sampler.sample_async(prompt=prompt, params=settings, num_samples=num_samples) for prompt in prompts]
        )

    return [
        [grade(tokenizer.decode(sequence.tokens, skip_special_tokens=True), task.answer) for sequence in result.sequences]
        for task, result in zip(tasks, asyncio.run(run()), strict=True)
    ]


def test_it_is_right_about_a_third_of_the_time_and_nearly_always_within_eight(sampler: LocalSampler) -> None:
    found = grades(sampler, 8, temperature=1.0, seed=0)
    assert 0.28 <= fmean(map(fmean, found)) <= 0.46
    assert fmean(map(max, found)) >= 0.9


def test_greedy_it_always_takes_the_quick_and_wrong_way(sampler: LocalSampler) -> None:
    assert fmean(map(fmean, grades(sampler, 1, temperature=0.0))) <= 0.1


def test_a_system_message_does_not_confuse_it(sampler: LocalSampler) -> None:
    found = grades(sampler, 4, system="You are a patient teacher. Explain your answer to a child.", temperature=1.0, seed=1)
    assert 0.25 <= fmean(map(fmean, found)) <= 0.5


def test_it_is_about_a_megabyte() -> None:
    files = list(Path(resolve("starter")).iterdir())
    assert sum(path.stat().st_size for path in files) < 1_300_000


def test_its_tokenizer_takes_any_text_and_each_digit_is_a_token() -> None:
    tokenizer = load_tokenizer("starter")
    for text in ("47 + 38 = 85", "Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "Ünïcödé 数学 🙂\t\r\n"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    digits = [tokenizer.decode([token]) for token in tokenizer.encode("1234567890", add_special_tokens=False)]
    assert digits == list("1234567890")


def test_its_chat_template_marks_what_the_assistant_says() -> None:
    tokenizer = load_tokenizer("starter")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 47 + 38?"},
        {"role": "assistant", "content": "Answer: 85"},
    ]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    spoken = [token for token, is_spoken in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if is_spoken]
    assert tokenizer.decode(spoken) == "Answer: 85<|im_end|>"
