"""Our metric log against what people use otherwise: what a call costs the training loop, and how long until its point is durable.

    python -m benchmarks.metrics [--quick]

Each logger that is installed here (MLflow on SQLite, Trackio, Aim, TensorBoard; none of them is needed, `pip install` those you
care for) gets the same steps of ten numbers, 20 ms apart, as a training loop reports them. call: what the loop waits for, median
and 95 %. durable: from the call to the point's being where a reader of its own finds it, asked every millisecond (ours: a row of
the database; TensorBoard: bytes of its file; MLflow: its store; Trackio and Aim: not asked, their own threads decide).
Goal: the least of all calls, and less than 1 % of the step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._product import held_run, say, throwaway_product
from benchmarks.metric_log import KEYS, STEP_SECONDS

Record = Callable[[int, dict[str, float]], None]
IsDurable = Callable[[int], bool]
PATIENCE_SECONDS = 5.0
GOAL = 0.01


class Log(NamedTuple):
    """is_durable: whether the step can be read by somebody else; None where that cannot be asked."""

    record: Record
    is_durable: IsDurable | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Does it run, not how fast is it.")
    quick = parser.parse_args().quick
    num_steps = 10 if quick else 200
    calls: dict[str, float] = {}
    with throwaway_product() as product, tempfile.TemporaryDirectory() as folder:
        say(f"{'logger':<14}{'call p50, µs':>14}{'p95, µs':>10}{'durable p50, ms':>18}")
        for name, (module, opened) in LOGS.items():
            if module and find_spec(module) is None:
                say(f"{name:<14}{'not installed':>14}")
                continue
            with opened(Path(folder) / module if module else product.user) as log:
                calls[name] = measure(name, log, num_steps)
    share = calls["ours"] / STEP_SECONDS
    met = share < GOAL and calls["ours"] <= min(calls.values())
    say(f"ours: {share:.2%} of a {STEP_SECONDS * 1e3:.0f} ms step. Goal: {'met' if met else 'missed'}.")
    return 0 if met or quick else 1


def measure(name: str, log: Log, num_steps: int) -> float:
    """The median call in seconds; prints a line. Durability is asked at every fifth step, so that asking disturbs few."""
    calls, durable = [], []
    for step in range(1, num_steps + 1):
        time.sleep(STEP_SECONDS)
        values = dict.fromkeys(KEYS, 1.0 / step)
        began = time.perf_counter()
        log.record(step, values)
        calls.append(time.perf_counter() - began)
        if log.is_durable is not None and step % 5 == 0:
            while not log.is_durable(step):
                if time.perf_counter() - began > PATIENCE_SECONDS:
                    break
                time.sleep(0.001)
            durable.append(time.perf_counter() - began)
    p50, p95 = statistics.median(calls), statistics.quantiles(calls, n=20)[-1]
    waited = statistics.median(durable) if durable else None
    shown = "not asked" if waited is None else f"> {waited * 1e3:.0f}" if waited > PATIENCE_SECONDS else f"{waited * 1e3:.1f}"
    say(f"{name:<14}{p50 * 1e6:>14.0f}{p95 * 1e6:>10.0f}{shown:>18}")
    return p50


@contextmanager
def ours(user: Any) -> Iterator[Log]:
    from evsys_web.runs.models import MetricRow
    from evsys_web.runs.recorder import RunRecorder
    from recipes.types import LoopState, RunResult

    run = held_run(user)
    with RunRecorder(run) as recorder:
        state = LoopState(str(run.pk), 10**6, Path("unused"))
        recorder.on_train_start(state)

        def record(step: int, values: dict[str, float]) -> None:
            state.step = step
            recorder.on_step_end(state, step, None, values)

        yield Log(record, lambda step: MetricRow.objects.filter(run=run, step=step).exists())
        recorder.result = RunResult(str(run.pk), "completed")


@contextmanager
def mlflow(folder: Path) -> Iterator[Log]:
    peer = import_module("mlflow")
    peer.set_tracking_uri(f"sqlite:///{folder}.sqlite3")
    client = peer.MlflowClient()
    with peer.start_run() as run:
        key = KEYS[0]

        def is_durable(step: int) -> bool:
            return any(metric.step == step for metric in client.get_metric_history(run.info.run_id, key))

        yield Log(lambda step, values: peer.log_metrics(values, step=step), is_durable)


@contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), flush_secs=1)
    sizes = [0]

    def record(step: int, values: dict[str, float]) -> None:
        sizes[0] = size_of(folder)
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    yield Log(record, lambda step: size_of(folder) > sizes[0])
    writer.close()


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def trackio(folder: Path) -> Iterator[Log]:
    peer = import_module("trackio")
    peer.init(project="benchmark")
    yield Log(lambda step, values: peer.log(values, step=step), None)
    peer.finish()


@contextmanager
def aim(folder: Path) -> Iterator[Log]:
    run = import_module("aim").Run(repo=str(folder))

    def record(step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            run.track(value, name=key, step=step)

    yield Log(record, None)
    run.close()


LOGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "ours": ("", ours),
    "MLflow": ("mlflow", mlflow),
    "TensorBoard": ("tensorboard", tensorboard),
    "Trackio": ("trackio", trackio),
    "Aim": ("aim", aim),
}


if __name__ == "__main__":
    raise SystemExit(main())
