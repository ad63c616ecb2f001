"""What it costs a training loop to have its metrics recorded, against the same loop bare.

    python -m benchmarks.metric_log [--quick]

A step reports ten numbers. Work of 20 ms a step is done in three ways: asleep (as if on a device), in numpy (without the
interpreter's lock, on every core), in Python (holding it: the recorder's thread needs it too). Bare and recorded stretches of
half a second come in pairs, either first in turn; the overhead is the median over the pairs, with its 95 % interval. Recorded is
as a run records: a line of its file, and a row. Then: points a second when steps cost nothing, and reading a million points.
"call" is what the training thread waits for; "cpu" the processor time of call and recorder's thread, a step, which hardly depends
on what else the machine does: where the clock's interval is wide, trust that one.
Goal: less than 1 % of a 20 ms step, whatever its work is.
"""

from __future__ import annotations

import argparse
import math
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks._product import held_run, say, throwaway_product

if TYPE_CHECKING:
    from evsys_web.accounts.models import User

STEP_SECONDS = 0.02
GOAL = 0.01
KEYS = [
    "train/mean_nll",
    "train/loss_sum",
    "optim/lr",
    "optim/grad_norm",
    "tokens/trained",
    "tokens/total",
    "tokens/per_second",
    "time/step",
    "progress/epoch",
    "progress/done",
]
Work = Callable[[], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Does it run, not how fast is it.")
    quick = parser.parse_args().quick
    with throwaway_product() as product:
        say(f"{'work of a 20 ms step':<22}{'call, µs':>10}{'cpu, µs':>10}{'bare, ms':>10}{'recorded, ms':>14}{'overhead':>10}")
        overheads = [measure(product.user, product.home / name, work, quick=quick) for name, work in works().items()]
        measure_rate(product.user, num_steps=2_000 if quick else 30_000)
        measure_reading(product.user, num_points=100_000 if quick else 1_000_000)
    met = max(overheads) < GOAL
    say(f"Goal: below {GOAL:.0%} of a {STEP_SECONDS * 1000:.0f} ms step: {'met' if met else 'missed'}.")
    return 0 if met or quick else 1


def works() -> dict[str, Work]:
    """Each takes about STEP_SECONDS, a fixed amount of work so that a slower loop shows."""
    matrix = np.random.default_rng(0).normal(size=(192, 192)).astype(np.float32)

    def multiply() -> None:
        np.matmul(matrix, matrix)

    def count() -> int:
        return sum(range(2_000))

    return {
        "asleep": lambda: time.sleep(STEP_SECONDS),
        "numpy": repeated(multiply, STEP_SECONDS),
        "python": repeated(count, STEP_SECONDS),
    }


def repeated(work: Work, seconds: float) -> Work:
    rates = []
    for _ in range(5):
        began, times = time.thread_time(), 0
        while time.thread_time() - began < seconds:
            work()
            times += 1
        rates.append(times)
    times = int(statistics.median(rates))

    def repeat() -> None:
        for _ in range(times):
            work()

    return repeat


def measure(user: User, folder: Path, work: Work, *, quick: bool) -> float:
    """Share of the bare step that recording adds; prints a line. folder: the run's, named after the work."""
    from evsys_web.runs.recorder import RunRecorder
    from recipes.callbacks import METRICS_FILE, MetricsFile
    from recipes.types import LoopState, RunResult

    run, file = held_run(user), MetricsFile(folder / METRICS_FILE)
    num_steps, num_pairs = (10, 6) if quick else (25, 40)
    pairs: list[tuple[float, float]] = []
    calls: list[float] = []
    in_calls = 0.0
    with RunRecorder(run) as recorder:
        state = LoopState(str(run.pk), 10**6, folder)
        for callback in (file, recorder):
            callback.on_train_start(state)

        def record(values: dict[str, float]) -> None:
            nonlocal in_calls
            state.step += 1
            in_calls -= time.thread_time()
            began = time.perf_counter()
            for callback in (file, recorder):
                callback.on_step_end(state, state.step, None, values)
            calls.append(time.perf_counter() - began)
            in_calls += time.thread_time()

        def recorded() -> float:
            seconds = stretch(work, num_steps, record)
            recorder.flush()  # what is left would be committed while the bare loop runs
            return seconds

        for number in range(num_pairs):
            if number % 2:
                after = recorded()
                before = stretch(work, num_steps, lambda values: None)
            else:
                before = stretch(work, num_steps, lambda values: None)
                after = recorded()
            pairs.append((before, after))
        cpu = (in_calls + processor_time_of(f"recorder-{run.pk}")) / len(calls)
        file.on_train_end(state, RunResult(str(run.pk), "completed"))
        recorder.result = RunResult(str(run.pk), "completed")
    share = typical([after / before - 1 for before, after in pairs])
    before, after = statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)
    say(
        f"{folder.name:<22}{statistics.median(calls) * 1e6:>10.0f}{cpu * 1e6:>10.0f}"
        f"{before * 1e3:>10.3f}{after * 1e3:>14.3f}{share.median:>10.2%}  ({share.low:.2%} to {share.high:.2%})"
    )
    return share.median


class Typical(NamedTuple):
    """The median, and the 95 % interval of it that the ranks give, whatever the distribution."""

    median: float
    low: float
    high: float


def typical(values: list[float]) -> Typical:
    ordered, half = sorted(values), math.ceil(0.98 * math.sqrt(len(values)))
    middle = len(values) // 2
    return Typical(statistics.median(values), ordered[max(0, middle - half)], ordered[min(len(values) - 1, middle + half)])


def processor_time_of(name: str) -> float:
    """Seconds that the thread of this name has taken so far."""
    thread = next(thread for thread in threading.enumerate() if thread.name == name)
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def stretch(work: Work, num_steps: int, report: Callable[[dict[str, float]], None]) -> float:
    """Seconds a step."""
    began = time.perf_counter()
    for step in range(num_steps):
        work()
        report(dict.fromkeys(KEYS, 1.0 / (step + 1)))
    return (time.perf_counter() - began) / num_steps


def measure_rate(user: User, *, num_steps: int) -> None:
    from evsys_web.runs import metrics
    from evsys_web.runs.recorder import RunRecorder
    from recipes.types import LoopState, RunResult

    kept: list[dict[str, float]] = []
    bare = stretch(lambda: None, num_steps, kept.append) * num_steps
    run = held_run(user)
    began = time.perf_counter()
    with RunRecorder(run) as recorder:
        state = LoopState(str(run.pk), num_steps, Path("unused"))
        recorder.on_train_start(state)
        for step in range(1, num_steps + 1):
            state.step = step
            recorder.on_step_end(state, step, None, dict.fromkeys(KEYS, 1.0 / step))
        recorder.flush()
        committed = time.perf_counter() - began
        recorder.result = RunResult(str(run.pk), "completed")
    count = metrics.series(run, [KEYS[0]])[KEYS[0]].count
    assert count == num_steps, f"{count} of {num_steps} steps were recorded"
    rate = num_steps * len(KEYS) / committed
    say(f"\n{num_steps:,} steps without work: {rate:,.0f} points/s committed ({num_steps / committed:,.0f} steps/s);")
    say(f"a bare list takes {num_steps * len(KEYS) / bare:,.0f} points/s")


def measure_reading(user: User, *, num_points: int) -> None:
    from evsys_web.runs import metrics
    from evsys_web.runs.models import MetricChunk

    run = held_run(user)
    rng = np.random.default_rng(0)
    stretches = []
    for first in range(1, num_points + 1, metrics.FOLD_ROWS):
        last = first + metrics.FOLD_ROWS - 1
        shared = {"run": run, "first_seq": first, "last_seq": last, "first_step": first, "last_step": last}
        data = rng.normal(size=metrics.FOLD_ROWS).astype("<f8").tobytes()
        for key, chunk in ((metrics.STEP, b""), (KEYS[0], data)):
            stretches.append(MetricChunk(key=key, count=metrics.FOLD_ROWS, data=chunk, **shared))
    MetricChunk.objects.bulk_create(stretches)
    times = []
    for _ in range(7):
        began = time.perf_counter()
        curve = metrics.series(run, [KEYS[0]])[KEYS[0]]
        curve.as_json()
        times.append(time.perf_counter() - began)
    say(f"{curve.count:,} points of one key read and thinned out to {len(curve.x):,}: {statistics.median(times) * 1e3:.0f} ms\n")


if __name__ == "__main__":
    raise SystemExit(main())
