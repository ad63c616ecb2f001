"""From the end of a training step to the client that watches it: how long, with 1, 50 and 200 viewers.

    python -m benchmarks.live [--quick]

A real server (uvicorn, started as `manage.py up` does) streams a run that another process records at ten steps a second; a third
process holds the viewers and compares the step's own time with the moment its event arrives. All on loopback and SQLite.
Goal: p95 below 300 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np

from benchmarks._product import ROOT, held_run, open_product, say, throwaway_product

STEP_SECONDS = 0.1
GOAL_SECONDS = 0.3
AT = b'"at":"'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Does it run, not how fast is it.")
    parser.add_argument("--write", type=int, nargs=2, metavar=("USER", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        return write(*options.write)
    viewers, num_steps = ((1, 5), 20) if options.quick else ((1, 50, 200), 100)
    worst = 0.0
    with throwaway_product() as product, server() as port:
        say(f"{'viewers':>8}{'events':>9}{'p50, ms':>9}{'p95, ms':>9}{'p99, ms':>9}")
        for num_viewers in viewers:
            latencies = watch(port, product.user.pk, num_viewers, num_steps)
            p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
            say(f"{num_viewers:>8}{len(latencies):>9}{p50 * 1e3:>9.0f}{p95 * 1e3:>9.0f}{p99 * 1e3:>9.0f}")
            worst = max(worst, float(p95))
    met = worst < GOAL_SECONDS
    say(f"Goal: p95 below {GOAL_SECONDS * 1e3:.0f} ms: {'met' if met else 'missed'}.")
    return 0 if met or options.quick else 1


@contextmanager
def server() -> Iterator[int]:
    """The web process; yields its port."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "evsys_web.asgi:application", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen([*command, "--lifespan", "off", "--timeout-graceful-shutdown", "1"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("The server did not start.")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def watch(port: int, user_pk: int, num_viewers: int, num_steps: int) -> list[float]:
    """Seconds from step to client, of every event of every viewer."""
    from evsys_web.accounts.models import ApiToken, User

    user = User.objects.get(pk=user_pk)
    _, secret = ApiToken.objects.issue(user, name="benchmark")
    command = [sys.executable, "-m", "benchmarks.live", "--write", str(user_pk), str(num_steps)]
    writer = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdin is not None and writer.stdout is not None
        run_pk = int(writer.stdout.readline())
        request = (
            f"GET /api/v1/runs/{run_pk}/metrics/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n\r\n"
        ).encode()

        def go() -> None:
            writer.stdin.write("go\n")  # type: ignore[union-attr]
            writer.stdin.flush()  # type: ignore[union-attr]

        latencies = asyncio.run(view_all(port, request, num_viewers, go))
    finally:
        writer.stdin and writer.stdin.close()
        writer.wait(60)
    expected = num_viewers * num_steps
    if len(latencies) != expected:
        raise SystemExit(f"{len(latencies)} events arrived instead of {expected}.")
    return latencies


async def view_all(port: int, request: bytes, num_viewers: int, go: object) -> list[float]:
    assert callable(go)
    connected = [asyncio.Event() for _ in range(num_viewers)]
    views = [asyncio.create_task(view(port, request, event)) for event in connected]
    await asyncio.wait_for(asyncio.gather(*(event.wait() for event in connected)), 60)
    go()
    found = await asyncio.wait_for(asyncio.gather(*views), 120)
    return [latency for latencies in found for latency in latencies]


async def view(port: int, request: bytes, connected: asyncio.Event) -> list[float]:
    """One viewer, until the run has ended. Reads bytes only: 200 JSON parsers would measure themselves."""
    reader, connection = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    connection.write(request)
    latencies = []
    while line := await reader.readline():
        if line.startswith(b"event: status"):
            connected.set()
        elif AT in line and b'"values":' in line:
            begin = line.index(AT) + len(AT)
            moment = datetime.fromisoformat(line[begin : line.index(b'"', begin)].decode())
            latencies.append(time.time() - moment.timestamp())
        elif b'"status":"completed"' in line:
            break
    connection.close()
    return latencies


def write(user_pk: int, num_steps: int) -> int:
    """The process that trains: waits for a word, then reports ten numbers a step."""
    open_product()
    from evsys_web.accounts.models import User
    from evsys_web.runs.recorder import RunRecorder
    from recipes.types import LoopState, RunResult

    run = held_run(User.objects.get(pk=user_pk))
    say(str(run.pk))
    with RunRecorder(run) as recorder:
        state = LoopState(str(run.pk), num_steps, Path("unused"))
        recorder.on_train_start(state)
        sys.stdin.readline()
        for step in range(1, num_steps + 1):
            time.sleep(STEP_SECONDS)
            state.step = step
            recorder.on_step_end(state, step, None, {f"train/key_{index}": 1 / step for index in range(10)})
        recorder.result = RunResult(str(run.pk), "completed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
