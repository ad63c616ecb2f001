"""From attempts to a training set: preview and publish at 2,000 × 8 and 20,000 × 8 attempts of 2 KB, beside rLLM's way.

    python -m benchmarks.curation [--quick]

The same attempts are put into the product's database (SQLite) and into a store of episode files (`_rllm_store`); both are asked
for the right attempts of tasks within a band of avg, and must give as many rows. Every line is a process of its own, so that its
peak memory is its own; memory is over what the process holds before it begins. What is compared:

- a changed threshold: the product evaluates the filter over columns, as its page does at each keystroke; rLLM's way reads
  results.json and the episode of every chosen attempt again, or every episode. Median over several thresholds.
- the first preview of an eval run, which reads its conversations once, and the first in another process, which finds the columns.
- publishing: rows streamed into a version, with the source of each; against reading, collecting and writing Parquet twice.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from benchmarks._product import ROOT, Product, open_product, say, throwaway_product
from benchmarks._rllm_store import curate_store, register, write_store

if TYPE_CHECKING:
    from evsys_web.evals.models import EvalRun
    from recipes.types import Row

ATTEMPTS_PER_TASK = 8
REPLY = "First add the units, then the tens, and carry what is left over. " * 29
BANDS = ((0.0, 1.0), (0.1, 1.0), (0.0, 0.9), (0.2, 0.8), (0.3, 0.9))
GOAL_TIMES, GOAL_MEGABYTES = 20, 150


class Trial(NamedTuple):
    """seconds: by the clock, median of the repeats. megabytes: peak over idle. rows: of the first band."""

    seconds: float
    megabytes: float
    rows: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Does it run, not how fast is it.")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "WHERE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        say(json.dumps(MEASURES[options.measure[0]](options.measure[1])))
        return 0
    met = True
    with throwaway_product() as product:
        for num_tasks in (100,) if options.quick else (2_000, 20_000):
            met = compare(product, num_tasks) and met
    if options.quick:
        return 0  # too little work to compare
    say(f"Goals: {GOAL_TIMES} times as fast as reading again, below {GOAL_MEGABYTES} MB: {'met' if met else 'missed'}.")
    return 0 if met else 1


def compare(product: Product, num_tasks: int) -> bool:
    """One size's table. True when it meets the goals."""
    store = product.home / f"store-{num_tasks}"
    run = fill(product, num_tasks)
    write_store(store, attempts(num_tasks))
    say(f"\n{num_tasks:,} tasks × {ATTEMPTS_PER_TASK} attempts")
    say(f"{'':44}{'seconds':>10}{'peak MB':>9}{'rows':>9}")
    first = measure("preview, the first of an eval run", "first", str(run.pk))
    second = measure("preview, the first of another process", "first", str(run.pk))
    changed = measure("preview, another threshold", "changed", str(run.pk))
    chosen = measure("rLLM's way, another threshold", "chosen", str(store))
    every = measure("  the same, reading every episode", "every", str(store))
    published = measure("publish", "publish", str(run.pk))
    registered = measure("rLLM's way, read and register", "register", str(store))
    if len({trial.rows for trial in (first, second, changed, chosen, every, published, registered)}) > 1:
        raise SystemExit("They chose different rows.")
    times, of_every = chosen.seconds / changed.seconds, every.seconds / changed.seconds
    say(f"another threshold: {times:,.0f} times as fast as rLLM's way, {of_every:,.0f} times as reading every episode")
    slower, share = published.seconds / registered.seconds, published.megabytes / registered.megabytes
    say(f"publishing: {slower:.1f} times as long as registering, in {share:.0%} of its memory")
    return times >= GOAL_TIMES and published.megabytes <= GOAL_MEGABYTES


def measure(title: str, what: str, where: str) -> Trial:
    """In a process of its own, on the same home; prints a line."""
    command = [sys.executable, "-m", "benchmarks.curation", "--measure", what, where]
    trial = Trial(*json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout))
    say(f"{title:44}{trial.seconds:10.4f}{trial.megabytes:9.1f}{trial.rows:9,}")
    return trial


# what is measured, each in its own process


def first(where: str) -> Trial:
    open_product()
    from evsys_web.curation.pools import open_sources
    from recipes.curation import preview

    return timed(lambda band: preview(open_sources([run_of(where)]).pool, settings_of(band)).num_rows, BANDS[:1])


def changed(where: str) -> Trial:
    open_product()
    from evsys_web.curation.pools import open_sources
    from recipes.curation import preview

    preview(open_sources([run_of(where)]).pool, settings_of((0.0, 0.5)))
    return timed(lambda band: preview(open_sources([run_of(where)]).pool, settings_of(band)).num_rows, BANDS)


def publish(where: str) -> Trial:
    open_product()
    from evsys_web.curation import actions

    run = run_of(where)
    user = run.created_by
    assert user is not None

    def once(band: tuple[float, float]) -> int:
        published = actions.publish(
            user=user, project=run.project, eval_runs=[run], settings=settings_of(band), name=f"band {where}"
        )
        return int(published.version.num_rows)

    return timed(once, BANDS[:1])


def chosen(where: str) -> Trial:
    return timed(lambda band: len(curate_store(Path(where), *band)), BANDS[:3])


def every(where: str) -> Trial:
    return timed(lambda band: len(curate_store(Path(where), *band, read_all=True)), BANDS[:1])


def registering(where: str) -> Trial:
    import pyarrow.parquet  # noqa: F401 - not counted, as Django is not

    def once(band: tuple[float, float]) -> int:
        rows = curate_store(Path(where), *band)
        register(rows, Path(where))
        return len(rows)

    return timed(once, BANDS[:1])


MEASURES: dict[str, Callable[[str], Trial]] = {
    "first": first,
    "changed": changed,
    "publish": publish,
    "chosen": chosen,
    "every": every,
    "register": registering,
}


def timed(once: Callable[[tuple[float, float]], int], bands: tuple[tuple[float, float], ...]) -> Trial:
    """once: gives the number of rows of a band."""
    idle = psutil.Process().memory_info().rss
    seconds, rows = [], []
    for band in bands:
        started = time.perf_counter()
        rows.append(once(band))
        seconds.append(time.perf_counter() - started)
    return Trial(statistics.median(seconds), (peak_bytes() - idle) / 1e6, rows[0])


def peak_bytes() -> int:
    """The most this process ever held."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(found.split()[1]) * 1024


def settings_of(band: tuple[float, float]) -> Any:
    from recipes.curation import CurationSettings

    return CurationSettings(filter=f"{band[0]:g} < avg < {band[1]:g}")


def run_of(where: str) -> EvalRun:
    from evsys_web.evals.models import EvalRun

    found: EvalRun = EvalRun.objects.select_related("project", "created_by", "benchmark").get(pk=int(where))
    return found


# the attempts


def attempts(num_tasks: int) -> Iterator[Row]:
    """The same every time: tasks from hopeless to certain, replies of about 2 kB that all differ."""
    draw = random.Random(0)
    for task in range(num_tasks):
        chance = draw.betavariate(0.7, 0.7)
        question = {"role": "user", "content": f"What is {task} + {task % 97}?"}
        for attempt in range(ATTEMPTS_PER_TASK):
            right = draw.random() < chance
            reply = {"role": "assistant", "content": f"{REPLY}Attempt {attempt} says {task + task % 97 + (not right)}."}
            yield {
                "task_id": f"task-{task}",
                "attempt": attempt,
                "is_correct": right,
                "reward": float(right),
                "messages": [question, reply],
            }


def fill(product: Product, num_tasks: int) -> EvalRun:
    """An eval run with these attempts, as an import leaves it."""
    from evsys_web.evals.models import Attempt, EvalRun, EvalTask, Status, outcome_of

    run: EvalRun = EvalRun.objects.create(
        project=product.user.default_project(),
        created_by=product.user,
        name=f"{num_tasks} tasks",
        status=Status.COMPLETED,
        is_imported=True,
        model_label="benchmark",
        k=ATTEMPTS_PER_TASK,
        num_tasks=num_tasks,
        num_done=num_tasks * ATTEMPTS_PER_TASK,
    )
    made = attempts(num_tasks)
    position = 0
    while batch := list(islice(made, 250 * ATTEMPTS_PER_TASK)):
        groups = [batch[at : at + ATTEMPTS_PER_TASK] for at in range(0, len(batch), ATTEMPTS_PER_TASK)]
        tasks = []
        for group in groups:
            position += 1
            num_correct = sum(attempt["is_correct"] for attempt in group)
            tasks.append(
                EvalTask(
                    eval_run=run,
                    position=position,
                    task_id=group[0]["task_id"],
                    prompt=group[0]["messages"][0]["content"],
                    n=len(group),
                    num_correct=num_correct,
                    sum_reward=num_correct,
                    accuracy=num_correct / len(group),
                    outcome=outcome_of(len(group), num_correct, 0),
                )
            )
        EvalTask.objects.bulk_create(tasks)
        Attempt.objects.bulk_create(
            Attempt(eval_run=run, task=task, num_tokens=400, **{key: value for key, value in attempt.items() if key != "task_id"})
            for task, group in zip(tasks, groups, strict=True)
            for attempt in group
        )
    return run


if __name__ == "__main__":
    sys.exit(main())
