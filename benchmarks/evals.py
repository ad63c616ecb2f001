"""Speed of an eval: on the local engine against transformers' generate, and against the bare sampler that it drives.

    python benchmarks/evals.py [--quick]

All three sample the same prompts, k = 8, in one process, in turn; medians are compared, so that a busy machine slows all alike.
The eval does everything a real one does: it renders the tasks' messages, verifies every reply and writes attempts.jsonl. The bare
sampler is handed the finished prompts and the eval's own seeds, so that it says the very same tokens, and nothing is done with
them. generate is given its best: every prompt in one left-padded call. The clock is what a user waits for; processor time says
the same on a machine that others keep busy, if the least of each is compared: neighbours in the caches only add to it. What an
eval adds is a constant per attempt, so it shows on the starter, a model of a third of a million weights that needs half a
millisecond for an attempt, and vanishes on larger ones.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recipes
from benchmarks.sampling import NUM_SAMPLES, Case, Trial, generate_at_once, medium_case, starter_case
from recipes.backends.local.sampler import LocalSampler
from recipes.chat import LocalChat
from recipes.eval_config import EvalConfig
from recipes.rendering import load_tokenizer, render_prompt
from recipes.rollouts import seed_of
from recipes.starter.tasks import draw_tasks
from recipes.types import SamplingParams, Task

MOST_OVERHEAD = 0.05


class Work(NamedTuple):
    case: Case
    tasks: list[Task]

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(max_tokens=self.case.max_tokens, temperature=1.0)


def starter_work(num_tasks: int) -> Work:
    return Work(starter_case(num_tasks), draw_tasks("held_out", 200)[:num_tasks])


def medium_work(num_tasks: int, max_tokens: int, num_threads: int) -> Work:
    """The random 95 M model on the starter's questions; nothing it says is right, but it takes its time."""
    tasks = draw_tasks("held_out", 200)[:num_tasks]
    tokenizer = load_tokenizer("starter")
    case = medium_case(1, max_tokens, num_threads)
    prompts = [render_prompt(task.messages, tokenizer) for task in tasks]
    return Work(replace(case, tokenizer=_OwnVocabulary(tokenizer), prompts=prompts), tasks)


class _OwnVocabulary:
    """The starter's tokenizer for a model with a larger vocabulary: ids beyond its own are folded into it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, tokens: list[int], **options: Any) -> Any:
        return self._tokenizer.decode([token % len(self._tokenizer) for token in tokens], **options)


def bare_sampler(work: Work, seed: int) -> Trial:
    async def run(sampler: LocalSampler) -> int:
        calls = [
            sampler.sample_async(
                prompt=prompt, params=replace(work.params, seed=seed_of(seed, task.task_id)), num_samples=NUM_SAMPLES
            )
            for prompt, task in zip(work.case.prompts, work.tasks, strict=True)
        ]
        return sum(len(sequence.tokens) for result in await asyncio.gather(*calls) for sequence in result.sequences)

    with _worker(work) as executor:
        started = time.perf_counter()
        num_tokens = asyncio.run(run(LocalSampler(executor, work.case.model, work.case.tokenizer)))
        return Trial(time.perf_counter() - started, num_tokens)


def whole_eval(work: Work, seed: int) -> Trial:
    config = EvalConfig.from_values(
        {
            "model": {"name": "starter"},
            "data": {"dataset": "held-out@1"},
            "verifier": {"kind": "numeric"},
            "attempts": NUM_SAMPLES,
            "sampling": {"max_tokens": work.case.max_tokens, "seed": seed},
        }
    )
    num_tokens = 0

    def count(attempt: Any) -> None:
        nonlocal num_tokens
        num_tokens += attempt.num_tokens

    with _worker(work) as executor, tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        chat = LocalChat(LocalSampler(executor, work.case.model, work.case.tokenizer), work.case.tokenizer)
        result = recipes.evaluate(config, tasks=work.tasks, run_dir=Path(folder), on_attempt=count, client=chat)
        seconds = time.perf_counter() - started
    assert result.status == "completed" and result.num_errors == 0, result
    return Trial(seconds, num_tokens)


def generate(work: Work, seed: int) -> Trial:
    return generate_at_once(work.case, seed)


def _worker(work: Work) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(work.case.num_threads,))


def compare(work: Work, repeats: int) -> float:
    """Print one line of the table; returns the share of time that the eval takes on top of the bare sampler's."""
    torch.set_num_threads(work.case.num_threads)
    contenders: list[Callable[[Work, int], Trial]] = [whole_eval, bare_sampler, generate]
    warm = Work(replace(work.case, prompts=work.case.prompts[:2], max_tokens=4), work.tasks[:2])
    for contender in contenders:
        contender(warm, 0)
    trials: list[list[Trial]] = [[], [], []]
    processor: list[list[float]] = [[], [], []]
    for seed in range(repeats):
        order = list(zip(contenders, trials, strict=True))
        for contender, done in order if seed % 2 else reversed(order):
            began = time.process_time()
            done.append(contender(work, seed))
            processor[contenders.index(contender)].append(time.process_time() - began)
    evals, bare, generated = trials
    assert [trial.num_tokens for trial in evals] == [trial.num_tokens for trial in bare], "they said other tokens"
    overhead = statistics.median(a.seconds / b.seconds for a, b in zip(evals, bare, strict=True)) - 1
    computing = min(processor[0]) / min(processor[1]) - 1
    speed, others = (statistics.median(trial.speed for trial in done) for done in (evals, generated))
    sys.stdout.write(
        f"| {work.case.title} | {work.case.num_threads} | {len(work.tasks)} tasks × {NUM_SAMPLES}, at most "
        f"{work.case.max_tokens} tokens | {speed:,.0f} | {others:,.0f} | {speed / others:.2f} | {overhead:+.1%} "
        f"| {computing:+.1%} |\n"
    )
    sys.stdout.flush()
    return overhead


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="less work and one trial of each: a smoke test, not a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="trials of each; medians are compared")
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()), help="threads for the larger model")
    parser.add_argument("--only", choices=["starter", "medium"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    repeats = 1 if options.quick else options.repeats
    sys.stdout.write(
        "| model | threads | work | eval, tokens/s | generate, tokens/s | times as fast "
        "| over the bare sampler, by the clock | in processor time |\n" + "|---" * 8 + "|\n"
    )
    overheads = []
    if options.only != "medium":
        overheads.append(compare(starter_work(40 if options.quick else 200), repeats))
    if options.only != "starter":
        work = medium_work(2, 4, options.threads) if options.quick else medium_work(8, 24, options.threads)
        overheads.append(compare(work, repeats))
    sys.stdout.write(
        f"goal: at most {MOST_OVERHEAD:.0%} over the bare sampler: {'met' if max(overheads) <= MOST_OVERHEAD else 'NOT met'}\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
