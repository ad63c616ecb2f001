"""Our metric log against what people use otherwise: what a call costs the training loop, and how long until its point is durable.

    python -m benchmarks.metrics [--quick] [--peers VENV]

Each logger that is installed (MLflow on SQLite, TensorBoard, Trackio, Aim) gets the same steps of ten numbers, 20 ms apart, as a
training loop reports them, in a process of its own. None of them is needed, and they pin much: install those you care for into
a virtual environment of their own (python -m venv VENV; VENV/bin/pip install mlflow tensorboard trackio aim) and name it.
call: what the loop waits for, median and 95 %. durable: from the call until a reader of its own finds the point, asked every
millisecond: for MLflow and Trackio a committed row of their SQLite file, for TensorBoard and Aim bytes of their files. Ours
writes both, so both are asked: the line of the run's metrics.jsonl, which a killed worker leaves behind, and the row, which
pages read. Goal: the least of all calls, rows sooner than rows and files sooner than files, and less than 1 % of the step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks import _metric_peers
from benchmarks._metric_peers import NOT_INSTALLED, Log, Task, Times, grown
from benchmarks._product import Product, held_run, say, throwaway_product
from benchmarks.metric_log import KEYS, STEP_SECONDS

LABELS = {"mlflow": "MLflow", "trackio": "Trackio", "tensorboard": "TensorBoard", "aim": "Aim"}
KEEPS_ROWS = ("mlflow", "trackio")
PATIENCE_SECONDS = 5.0
GOAL = 0.01


class Result(NamedTuple):
    """Seconds."""

    call: float
    durable: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Does it run, not how fast is it.")
    parser.add_argument("--peers", type=Path, metavar="VENV", help="Virtual environment that has the others; else this one.")
    arguments = parser.parse_args()
    task = Task(KEYS, 10 if arguments.quick else 200, STEP_SECONDS, PATIENCE_SECONDS)
    python = arguments.peers / "bin" / "python" if arguments.peers else Path(sys.executable)
    if not python.exists():
        parser.error(f"{arguments.peers} is no virtual environment: it has no bin/python.")
    say(f"{'logger':<22}{'call p50, µs':>14}{'p95, µs':>10}{'durable p50, ms':>18}{'p95, ms':>10}")
    with throwaway_product() as product:
        row, file = (told(f"ours, its {what}", measured_ours(product, what, task)) for what in ("row", "file"))
    call = max(row.call, file.call)
    others = {name: found for name in LABELS if (found := measured(python, name, task)) is not None}
    faster = [
        LABELS[name]
        for name, other in others.items()
        if other.call < call or other.durable < (row if name in KEEPS_ROWS else file).durable
    ]
    met = call / STEP_SECONDS < GOAL and not faster
    say(
        f"ours: {call / STEP_SECONDS:.2%} of a {STEP_SECONDS * 1e3:.0f} ms step. Faster somewhere: {', '.join(faster) or 'none'}."
    )
    say(f"Goal: {'met' if met else 'missed'}.")
    return 0 if met or arguments.quick else 1


def measured(python: Path, name: str, task: Task) -> Result | None:
    """None where it is not installed, or does not run; a line says which."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), _metric_peers.__file__, name, folder]
        environment = {key: value for key, value in os.environ.items() if key not in ("DJANGO_SETTINGS_MODULE", "PYTHONPATH")}
        given = json.dumps(task._asdict())
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, cwd=folder, env=environment | {"HOME": folder}
        )
        if done.returncode:
            why = "not installed" if done.returncode == NOT_INSTALLED else (done.stderr.strip() or "failed").splitlines()[-1]
            say(f"{LABELS[name]:<22}  {why}")
            return None
        result = json.loads((Path(folder) / "result.json").read_text())
    return told(f"{LABELS[name]} {result['version']}", Times(result["calls"], result["durable"]))


def told(label: str, times: Times) -> Result:
    """The medians, of which a line tells."""
    call, durable = statistics.median(times.calls), statistics.median(times.durable)
    late_call, late = statistics.quantiles(times.calls, n=20)[-1], statistics.quantiles(times.durable, n=20)[-1]
    say(f"{label:<22}{call * 1e6:>14.0f}{late_call * 1e6:>10.0f}{shown(durable):>18}{shown(late):>10}")
    return Result(call, durable)


def shown(seconds: float) -> str:
    return f"> {PATIENCE_SECONDS * 1e3:.0f}" if seconds >= PATIENCE_SECONDS else f"{seconds * 1e3:.1f}"


def measured_ours(product: Product, what: str, task: Task) -> Times:
    """As the loop reports a step: first to the run's file, then to the recorder. what: row or file, whichever is waited for."""
    from evsys_web.runs.recorder import RunRecorder
    from recipes.callbacks import METRICS_FILE, MetricsFile
    from recipes.types import LoopState, RunResult

    run, folder = held_run(product.user), product.home / what
    file = MetricsFile(folder / METRICS_FILE)
    with RunRecorder(run) as recorder:
        state = LoopState(str(run.pk), 10**6, folder)
        for callback in (file, recorder):
            callback.on_train_start(state)

        def record(step: int, values: dict[str, float]) -> None:
            state.step = step
            file.on_step_end(state, step, None, values)
            recorder.on_step_end(state, step, None, values)

        asked = grown(folder, record)
        if what == "row":
            asked = Log(record, lambda step: is_row(run.pk, step))
        times = _metric_peers.measure(asked, task)
        file.on_train_end(state, RunResult(str(run.pk), "completed"))
        recorder.result = RunResult(str(run.pk), "completed")
    return times


def is_row(run_pk: int, step: int) -> bool:
    """Asked by hand, as the peers' tables are: asking often must not be work that the recorder makes way for."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM runs_metricrow WHERE run_id = %s AND step = %s", [run_pk, step])
        return cursor.fetchone() is not None


if __name__ == "__main__":
    raise SystemExit(main())
