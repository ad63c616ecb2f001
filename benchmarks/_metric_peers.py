"""One logger of `benchmarks.metrics`, in a process of its own: by whichever Python has it installed, so nothing but the standard
library is imported here before the logger itself.

    python benchmarks/_metric_peers.py NAME FOLDER < task.json

Writes FOLDER/result.json, or ends with NOT_INSTALLED.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

NOT_INSTALLED = 3
ASK_EVERY = 5
"""Steps, so that asking disturbs few."""
Record = Callable[[int, dict[str, float]], None]
IsDurable = Callable[[int], bool]


class Task(NamedTuple):
    """What every logger is given: so many steps of these keys. patience_seconds: how long a point is waited for."""

    keys: list[str]
    num_steps: int
    step_seconds: float
    patience_seconds: float


class Log(NamedTuple):
    """is_durable: whether the values of this step, which is the newest, lie where another process would find them."""

    record: Record
    is_durable: IsDurable


class Times(NamedTuple):
    """Seconds: of every call, and from some calls to the point's being durable (at most the patience)."""

    calls: list[float]
    durable: list[float]


def measure(log: Log, task: Task) -> Times:
    """Steps are uneven: a logger that writes now and then would be met always at the same moment of its."""
    times, dice = Times([], []), random.Random(0)
    for step in range(1, task.num_steps + 1):
        time.sleep(task.step_seconds * dice.uniform(0.5, 1.5))
        values = dict.fromkeys(task.keys, 1.0 / step)
        began = time.perf_counter()
        log.record(step, values)
        times.calls.append(time.perf_counter() - began)
        if step % ASK_EVERY == 0:
            while not log.is_durable(step) and time.perf_counter() - began < task.patience_seconds:
                time.sleep(0.001)
            times.durable.append(time.perf_counter() - began)
    return times


@contextmanager
def mlflow(folder: Path) -> Iterator[Log]:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    peer = import_module("mlflow")
    peer.set_tracking_uri(f"sqlite:///{folder}/mlflow.sqlite3")
    with peer.start_run():
        record: Record = lambda step, values: peer.log_metrics(values, step=step)  # noqa: E731 - one line, typed
        yield Log(record, lambda step: has_step(folder / "mlflow.sqlite3", step))


@contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    """As PyTorch's SummaryWriter writes, flushed every second (as it comes: every two minutes)."""
    writer = import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter(str(folder), flush_secs=1)
    events = import_module("tensorboard.compat.proto.event_pb2")
    summaries = import_module("tensorboard.compat.proto.summary_pb2")

    def record(step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            summary = summaries.Summary(value=[summaries.Summary.Value(tag=key, simple_value=value)])
            writer.add_event(events.Event(wall_time=time.time(), step=step, summary=summary))

    yield grown(folder, record)
    writer.close()


@contextmanager
def trackio(folder: Path) -> Iterator[Log]:
    os.environ |= {"TRACKIO_DIR": str(folder / "trackio"), "HF_HUB_OFFLINE": "1"}
    peer = import_module("trackio")
    peer.init(project="benchmark", embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def is_durable(step: int) -> bool:
        return any(has_step(path, step) for path in (folder / "trackio").glob("*.db"))

    yield Log(lambda step, values: peer.log(values, step=step), is_durable)
    peer.finish()


@contextmanager
def aim(folder: Path) -> Iterator[Log]:
    run = import_module("aim").Run(repo=str(folder), system_tracking_interval=None, capture_terminal_logs=False)

    def record(step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            run.track(value, name=key, step=step)

    yield grown(folder, record)
    run.close()


def grown(folder: Path, record: Record) -> Log:
    """Durable as soon as its files have grown since the call began."""
    before = [0]

    def recorded(step: int, values: dict[str, float]) -> None:
        if step % ASK_EVERY == 0:
            before[0] = size_of(folder)
        record(step, values)

    return Log(recorded, lambda _: size_of(folder) > before[0])


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def has_step(path: Path, step: int) -> bool:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)) as database:
            return database.execute("SELECT 1 FROM metrics WHERE step = ? LIMIT 1", [step]).fetchone() is not None
    except sqlite3.OperationalError:  # busy, or no table yet
        return False


PEERS: dict[str, Callable[[Path], Any]] = {"mlflow": mlflow, "tensorboard": tensorboard, "trackio": trackio, "aim": aim}


def main(name: str, folder: Path) -> int:
    if find_spec(name) is None:
        return NOT_INSTALLED
    task = Task(**json.load(sys.stdin))
    with PEERS[name](folder) as log:
        times = measure(log, task)
    version = import_module("importlib.metadata").version(name)
    (folder / "result.json").write_text(json.dumps({"version": version, **times._asdict()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
