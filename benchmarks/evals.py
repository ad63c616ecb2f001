"""Speed of an eval: on the local engine against transformers' generate, and against the bare sampler that it drives.

    python -m benchmarks.evals [--quick] [--only generate|overhead] [--model starter|medium]

Both tables sample the same prompts, k = 8, in one process, in turn. generate is given its best: every prompt in one left-padded
call. Only tokens up to and with the end of turn count.

What the runner costs is the share of time that `recipes.evaluate` takes on top of the sampler that it drives:

- the eval starts from tasks and a config. It checks both, renders the messages, asks the sampler, decodes and verifies every
  reply, writes attempts.jsonl, counts, and tells a callback of each attempt. Opening weights is no part of it.
- the bare sampler is handed the finished prompts with the eval's own seeds, all at once, as the eval asks for them too, and
  nothing is done with what it says. It must say as many tokens, or the benchmark fails.

A busy or a throttled machine scatters a single trial by more than the goal is wide. So both run in many short pairs, the order
swapped from pair to pair, each after a garbage collection and with all older objects out of the collector's way; the first pair
is thrown away. The number is the median of the pairs' ratios, with the sign test's 95 % interval, which assumes nothing of their
distribution. The goal is met where the whole interval lies below it. Processor time, of all threads together, is compared in the
same way, and once more by the least of each side, which neighbours in the caches disturb least. The run's folder lies in memory
where there is /dev/shm: the one fsync of an eval, for its config, waits for whatever else the disk is doing. What an eval adds is
a constant per attempt, so it shows on the starter, a model of a third of a million weights that needs half a millisecond for an
attempt, and vanishes on larger ones.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
MEMORY = Path("/dev/shm")  # nosec B108 - a folder of its own is made in it


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

    with _worker(work) as executor, tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
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


def compare(work: Work, repeats: int) -> None:
    """Print one line of the first table."""
    torch.set_num_threads(work.case.num_threads)
    contenders: list[Callable[[Work, int], Trial]] = [whole_eval, generate]
    trials: list[list[Trial]] = [[], []]
    for contender in contenders:
        contender(Work(replace(work.case, prompts=work.case.prompts[:2], max_tokens=4), work.tasks[:2]), 0)
    for seed in range(repeats):
        order = list(zip(contenders, trials, strict=True))
        for contender, done in order if seed % 2 else reversed(order):
            done.append(contender(work, seed))
    speed, others = (statistics.median(trial.speed for trial in done) for done in trials)
    _print_row(_title(work), work.case.num_threads, repeats, f"{speed:,.0f}", f"{others:,.0f}", f"{speed / others:.2f}")


class Cost(NamedTuple):
    """What one trial took, in seconds. processor: of all threads."""

    clock: float
    processor: float
    num_tokens: int


class Share(NamedTuple):
    """The median of ratios less 1, and its 95 % interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: list[float]) -> Share:
        """From the r-th smallest to the r-th largest of n ratios. The median lies outside with twice the chance that of n fair
        coins fewer than r fall heads: the largest r for which that is at most 5 %. Fewer than six ratios bound nothing."""
        ordered, num = sorted(ratios), len(ratios)
        rank, outside = 0, 2 * 0.5**num
        while outside <= 0.05:
            rank += 1
            outside += 2 * math.comb(num, rank) * 0.5**num
        low, high = (ordered[rank - 1], ordered[-rank]) if rank else (-math.inf, math.inf)
        return cls(statistics.median(ordered) - 1, low - 1, high - 1)

    def __str__(self) -> str:
        return f"{self.median:+.1%} [{self.low:+.1%}, {self.high:+.1%}]"


def measure_overhead(work: Work, seconds: float, num_pairs: int) -> Share:
    """Print one line of the second table; returns the share by the clock. As many pairs as begin in time, at least num_pairs."""
    torch.set_num_threads(work.case.num_threads)
    pairs: list[tuple[Cost, Cost]] = []
    until = time.monotonic() + seconds
    while len(pairs) <= num_pairs or time.monotonic() < until:
        seed = len(pairs)
        if seed % 2:
            ours, bare = _cost(whole_eval, work, seed), _cost(bare_sampler, work, seed)
        else:
            bare, ours = _cost(bare_sampler, work, seed), _cost(whole_eval, work, seed)
        assert ours.num_tokens == bare.num_tokens, "they said other tokens"
        pairs.append((ours, bare))
    del pairs[0]
    clock = Share.of([ours.clock / bare.clock for ours, bare in pairs])
    processor = Share.of([ours.processor / bare.processor for ours, bare in pairs])
    least = min(ours.processor for ours, _ in pairs) / min(bare.processor for _, bare in pairs) - 1
    num_attempts = len(work.tasks) * NUM_SAMPLES
    needed = statistics.median(bare.clock for _, bare in pairs) / num_attempts * 1000
    _print_row(_title(work), work.case.num_threads, len(pairs), f"{needed:.3f} ms", str(clock), str(processor), f"{least:+.1%}")
    return clock


def _cost(contender: Callable[[Work, int], Trial], work: Work, seed: int) -> Cost:
    with _older_objects_kept(freeze=contender is bare_sampler):
        began = time.process_time()
        trial = contender(work, seed)
        return Cost(trial.seconds, time.process_time() - began, trial.num_tokens)


@contextmanager
def _older_objects_kept(*, freeze: bool) -> Iterator[None]:
    """No garbage of the trial before, and no look at the half million objects of PyTorch in this one. An eval sees to the latter
    itself."""
    gc.collect(1)
    if freeze:
        gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _title(work: Work) -> str:
    return f"{work.case.title}, {len(work.tasks)} tasks × {NUM_SAMPLES}, at most {work.case.max_tokens} tokens"


def _print_row(*cells: object) -> None:
    sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")
    sys.stdout.flush()


def _verdict(share: Share) -> str:
    if share.low <= MOST_OVERHEAD < share.high:
        return "undecided, the interval holds it: give it more --seconds, or a quieter machine"
    return "met" if share.high <= MOST_OVERHEAD else "NOT met"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="less work and one trial of each: a smoke test, not a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="trials against generate; medians are compared")
    parser.add_argument(
        "--seconds", type=float, default=90, help="how long pairs with the bare sampler are begun, for each model"
    )
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()), help="threads for the larger model")
    parser.add_argument("--only", choices=["generate", "overhead"])
    parser.add_argument("--model", choices=["starter", "medium"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    repeats, seconds, num_pairs = (1, 0.0, 1) if options.quick else (options.repeats, options.seconds, 6)
    works = []
    if options.model != "medium":
        works.append(starter_work(40 if options.quick else 200))
    if options.model != "starter":
        works.append(medium_work(2, 4, options.threads) if options.quick else medium_work(8, 24, options.threads))
    if options.only != "overhead":
        _print_row("work", "threads", "trials", "eval, tokens/s", "generate, tokens/s", "times as fast")
        _print_row(*["---"] * 6)
        for work in works:
            compare(work, repeats)
    if options.only != "generate":
        head = (
            "work",
            "threads",
            "pairs",
            "bare sampler, per attempt",
            "the eval adds, by the clock",
            "in processor time",
            "least",
        )
        _print_row(*head)
        _print_row(*["---"] * len(head))
        shares = [measure_overhead(work, seconds, num_pairs) for work in works]
        verdict = _verdict(max(shares, key=lambda share: share.high))
        sys.stdout.write(f"goal: at most {MOST_OVERHEAD:.0%} over the bare sampler: {verdict}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
