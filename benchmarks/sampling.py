"""Sampling speed of the local backend against transformers' generate: same model, prompts, k = 8, temperature, length, threads.

    python benchmarks/sampling.py [--quick]

Trials alternate within one process and the medians are compared, so that a busy machine slows all alike. Tokens are those said
up to and with the end of turn; what generate computes for a row that has ended is not counted. generate is given its best: all
prompts in one left-padded call with num_return_sequences = 8. What it does when called prompt by prompt is shown beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.backends.local.models import resolve
from recipes.backends.local.sampler import LocalSampler, turn_end_ids
from recipes.rendering import load_tokenizer, render_prompt
from recipes.types import SamplingParams

NUM_SAMPLES = 8
GOAL = 3.0


@dataclass(frozen=True)
class Case:
    title: str
    model: Any
    tokenizer: Any
    prompts: list[list[int]]
    max_tokens: int
    num_threads: int

    @property
    def stop_ids(self) -> frozenset[int]:
        return turn_end_ids(self.model, self.tokenizer)


class Trial(NamedTuple):
    seconds: float
    num_tokens: int

    @property
    def speed(self) -> float:
        return self.num_tokens / self.seconds


def starter_case(num_prompts: int) -> Case:
    folder = Path(resolve("starter"))
    tokenizer = load_tokenizer("starter")
    lines = (folder.parent / "rows" / "tasks_held_out.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [render_prompt(json.loads(line)["messages"], tokenizer) for line in lines[:num_prompts]]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    return Case("starter model (0.3 M)", model.eval(), tokenizer, prompts, max_tokens=48, num_threads=1)


def medium_case(num_prompts: int, max_tokens: int, num_threads: int) -> Case:
    """About 95 M random weights, a vocabulary of 32k, prompts of very different lengths. Nothing ends early: no row ever says
    the end of turn, so that only the shared prompts can help."""
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32_000,
            hidden_size=640,
            intermediate_size=1792,
            num_hidden_layers=16,
            num_attention_heads=10,
            num_key_value_heads=5,
            head_dim=64,
            tie_word_embeddings=True,
            max_position_embeddings=1024,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(100), 0.5, num_prompts), 16, 400).astype(int)
    prompts = [rng.integers(1, 32_000, length).tolist() for length in lengths]
    return Case("random Qwen3 (95 M, 32k vocabulary)", model.eval(), None, prompts, max_tokens, num_threads)


def sample_locally(case: Case, seed: int) -> Trial:
    """A fresh sampler each time: what opening a snapshot costs is part of it."""
    params = SamplingParams(max_tokens=case.max_tokens, temperature=1.0, seed=seed)

    async def run(executor: ThreadPoolExecutor) -> int:
        sampler = LocalSampler(executor, case.model, case.tokenizer)
        calls = [sampler.sample_async(prompt=prompt, params=params, num_samples=NUM_SAMPLES) for prompt in case.prompts]
        return sum(len(sequence.tokens) for result in await asyncio.gather(*calls) for sequence in result.sequences)

    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(case.num_threads,)) as executor:
        started = time.perf_counter()
        num_tokens = asyncio.run(run(executor))
        return Trial(time.perf_counter() - started, num_tokens)


def generate_at_once(case: Case, seed: int) -> Trial:
    return _generate(case, [case.prompts], seed)


def generate_one_by_one(case: Case, seed: int) -> Trial:
    return _generate(case, [[prompt] for prompt in case.prompts], seed)


def _generate(case: Case, calls: list[list[list[int]]], seed: int) -> Trial:
    torch.manual_seed(seed)
    num_tokens = 0
    started = time.perf_counter()
    for prompts in calls:
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
        with torch.inference_mode():
            said = case.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=NUM_SAMPLES,
                max_new_tokens=case.max_tokens,
            )[:, width:]
        num_tokens += sum(_length(row, case.stop_ids) for row in said.tolist())
    return Trial(time.perf_counter() - started, num_tokens)


def _length(tokens: list[int], stop_ids: frozenset[int]) -> int:
    """Tokens up to and with the first end of turn."""
    return next((place + 1 for place, token in enumerate(tokens) if token in stop_ids), len(tokens))


def compare(case: Case, repeats: int) -> float:
    """Print one line of the table; returns how many times faster the local sampler is than generate at its best."""
    torch.set_num_threads(case.num_threads)
    contenders: list[Callable[[Case, int], Trial]] = [sample_locally, generate_at_once, generate_one_by_one]
    for contender in contenders:
        contender(Case(case.title, case.model, case.tokenizer, case.prompts[:2], 4, case.num_threads), 0)  # warm
    trials: list[list[Trial]] = [[], [], []]
    for seed in range(repeats):
        for contender, done in zip(contenders, trials, strict=True):
            done.append(contender(case, seed))
    ours, at_once, one_by_one = (statistics.median(trial.speed for trial in done) for done in trials)
    best = max(at_once, one_by_one)
    sys.stdout.write(
        f"| {case.title} | {case.num_threads} | {len(case.prompts)} prompts × {NUM_SAMPLES}, at most {case.max_tokens} tokens "
        f"| {ours:,.0f} | {at_once:,.0f} | {one_by_one:,.0f} | {ours / best:.2f} |\n"
    )
    sys.stdout.flush()
    return ours / best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="less work and one trial of each: a smoke test, not a measurement")
    parser.add_argument("--repeats", type=int, default=3, help="trials of each; the medians are compared")
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()), help="threads for the larger model")
    parser.add_argument("--only", choices=["starter", "medium"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    repeats = 1 if options.quick else options.repeats
    sys.stdout.write(
        "| model | threads | work | local tokens/s | generate, one call | generate, prompt by prompt | ratio to the better |\n"
        + "|---" * 7
        + "|\n"
    )
    ratios = []
    if options.only != "medium":
        ratios.append(compare(starter_case(40 if options.quick else 200), repeats))
    if options.only != "starter":
        ratios.append(
            compare(medium_case(2, 8, options.threads) if options.quick else medium_case(8, 40, options.threads), repeats)
        )
    sys.stdout.write(f"goal: at least {GOAL:g} on each: {'met' if min(ratios) >= GOAL else 'NOT met'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
