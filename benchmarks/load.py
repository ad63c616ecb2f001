"""A full installation: many runs, a long run, many rows, many writers, many viewers. What does each page take, and what memory?

    python -m benchmarks.load [--quick]

Full: 10,000 runs, a run with 1,000,000 points, a dataset of 100,000 rows, 20 runs that are written at ten steps a second, 200
viewers of another one; then an hour's use at once: 3,600 pages, one a second, and 360 streams that are opened, read and closed.
A real server (uvicorn, as `manage.py up` starts it) on loopback and SQLite, asked over one connection. Queries are counted in
this process, on the same tables; so is the processor time of a page, which depends less on what else runs. Goals on two cores:
list of runs p95 below 200 ms; page of the long run and its curve together below 1 s; step to viewer p95 below 300 ms; nothing
lost; memory of the web process flat, less than 5 % more at the end of the hour than after a fifth of it. Takes five to ten
minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import numpy as np
import psutil

from benchmarks._product import ROOT, held_run, say, throwaway_product
from benchmarks.live import server, watch

if TYPE_CHECKING:
    from evsys_web.accounts.models import User

KEY = "train/mean_nll"
LIST_SECONDS, PAGE_SECONDS, LIVE_SECONDS = 0.2, 0.5, 0.3
GROWTH = 1.05
NUM_PARTS = 10
"""Of the hour; memory is looked at after each."""
NUM_VISITORS = 4


class Sizes(NamedTuple):
    runs: int
    points: int
    rows: int
    writers: int
    viewers: int
    requests: int
    steps: int
    writer_steps: int
    hour_requests: int
    hour_streams: int


FULL = Sizes(
    runs=10_000,
    points=1_000_000,
    rows=100_000,
    writers=20,
    viewers=200,
    requests=40,
    steps=100,
    writer_steps=600,
    hour_requests=3600,
    hour_streams=360,
)
QUICK = Sizes(
    runs=200,
    points=10_000,
    rows=2_000,
    writers=2,
    viewers=5,
    requests=3,
    steps=20,
    writer_steps=40,
    hour_requests=40,
    hour_streams=10,
)


class Page(NamedTuple):
    name: str
    path: str
    goal: float | None = None

    @property
    def is_api(self) -> bool:
        return self.path.startswith("/api/")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Does it run, not how fast is it.")
    quick = parser.parse_args().quick
    sizes = QUICK if quick else FULL
    with throwaway_product() as product, server() as port:
        pages = seed(product.user, sizes, product.home)
        web = psutil.Process(next(child.pid for child in psutil.Process().children() if "uvicorn" in " ".join(child.cmdline())))
        say(f"{'page':<34}{'queries':>8}{'cpu, ms':>9}{'p50, ms':>9}{'p95, ms':>9}")
        met = measure(port, product.user, pages, sizes)
        say(f"\nThe same while {sizes.writers} runs are written:")
        with writers(product.user, sizes) as processes:
            rss = [process.memory_info().rss for process in processes]
            met &= measure(port, product.user, pages, sizes)
            num_left = sum(process.status() != psutil.STATUS_ZOMBIE for process in processes)
        say(f"memory of a writer: {statistics.median(rss) / 1e6:.0f} MB; {num_left} of {sizes.writers} still wrote at its end;")
        say(f"every step of {sizes.writers} writers is there")
        latencies = watch(port, product.user.pk, sizes.viewers, sizes.steps)
        p50, p95 = np.percentile(latencies, [50, 95])
        say(f"\nstep to viewer, {sizes.viewers} viewers: p50 {p50 * 1e3:.0f} ms, p95 {p95 * 1e3:.0f} ms; every event arrived")
        met &= bool(p95 < LIVE_SECONDS)
        met &= use_for_an_hour(port, product.user, pages, sizes, web)
    say(f"Goals: {'met' if met else 'missed'}.")
    return 0 if met or quick else 1


def seed(user: User, sizes: Sizes, home: Path) -> list[Page]:
    """Fill the tables; returns what will be asked for."""
    from django.utils.timezone import now

    from evsys_web.datasets.actions import import_dataset
    from evsys_web.runs.models import Status, TrainingRun
    from recipes.config import RunConfig
    from recipes.presets import starting_values

    project = user.default_project()
    algorithm = {"kind": "sft", "params": starting_values("starter", "sft")}
    parts = {"model": {"name": "starter"}, "data": {"dataset": "sums@1"}, "algorithm": algorithm, "backend": {"kind": "mock"}}
    config = RunConfig.from_values({"version": 1, "name": "sums", **parts}).model_dump(mode="json")
    ended = {"status": Status.COMPLETED, "finished_at": now(), "step": 100, "num_steps": 100, "config": config}
    runs = (TrainingRun(project=project, created_by=user, name=f"run {number}", **ended) for number in range(sizes.runs))
    TrainingRun.objects.bulk_create(runs, batch_size=500)
    long_run = held_run(user)
    write_points(long_run.pk, sizes.points)
    long_run.complete()
    path = home / "rows.jsonl"
    with path.open("w") as file:
        for number in range(sizes.rows):
            turns = [{"role": "user", "content": f"{number} + 1?"}, {"role": "assistant", "content": str(number + 1)}]
            file.write(json.dumps({"messages": turns}) + "\n")
    version = import_dataset(user=user, project=project, name="rows", path=path).version
    last = (sizes.rows - 1) // 50
    return [
        Page("home", "/"),
        Page(f"list of {sizes.runs:,} runs", "/runs/", LIST_SECONDS),
        Page("list of runs, searched", "/runs/?q=run+7"),
        Page(f"page of a run, {sizes.points:,} points", f"/runs/{long_run.pk}/", PAGE_SECONDS),
        Page("its curve", f"/api/v1/runs/{long_run.pk}/metrics?key={KEY}", PAGE_SECONDS),
        Page("runs over REST", "/api/v1/runs?limit=50"),
        Page(f"first of {sizes.rows:,} rows", f"/datasets/versions/{version.pk}"),
        Page("last of them", f"/datasets/versions/{version.pk}?page={last}"),
        Page("readiness", "/health/ready"),
    ]


def write_points(run_pk: int, num_points: int) -> None:
    """Folded, as a run that has ended leaves them."""
    from evsys_web.runs import metrics
    from evsys_web.runs.models import MetricChunk

    rng = np.random.default_rng(0)
    chunks = []
    for first in range(1, num_points + 1, metrics.FOLD_ROWS):
        last = first + metrics.FOLD_ROWS - 1
        shared = {"run_id": run_pk, "first_seq": first, "last_seq": last, "first_step": first, "last_step": last}
        at = np.arange(first, last + 1, dtype="<f8").tobytes()
        values = rng.normal(size=metrics.FOLD_ROWS).astype("<f8").tobytes()
        for key, data in ((metrics.SEQ, b""), (metrics.STEP, b""), (metrics.AT, at), (KEY, values)):
            chunks.append(MetricChunk(key=key, count=metrics.FOLD_ROWS, data=data, **shared))
    MetricChunk.objects.bulk_create(chunks, batch_size=500)


def measure(port: int, user: User, pages: list[Page], sizes: Sizes) -> bool:
    """A line a page; whether all goals are met."""
    visitor = Visitor(port, user)
    met = True
    with visitor.client:
        for page in pages:
            times = [visitor.get(page) for _ in range(sizes.requests + 1)]
            p50, p95 = np.percentile(times[1:], [50, 95])  # the first reads templates
            queries, cpu = visitor.count_queries(page), visitor.processor_time(page)
            say(f"{page.name:<34}{queries:>8}{cpu * 1e3:>9.1f}{p50 * 1e3:>9.1f}{p95 * 1e3:>9.1f}")
            met &= page.goal is None or bool(p95 < page.goal)
    return met


class Visitor:
    """A person with a browser, and a script with a token."""

    def __init__(self, port: int, user: User) -> None:
        from django.conf import settings
        from django.test import Client

        from evsys_web.accounts.models import ApiToken

        self.browser = Client(HTTP_HOST="localhost")
        self.browser.force_login(user)
        self._cookies = {settings.SESSION_COOKIE_NAME: self.browser.cookies[settings.SESSION_COOKIE_NAME].value}
        _, secret = ApiToken.objects.issue(user, name="load")
        self._headers = {"Authorization": f"Bearer {secret}"}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def get(self, page: Page) -> float:
        """Seconds."""
        began = time.perf_counter()
        answer = self.client.get(page.path, headers=self._headers_for(page), cookies={} if page.is_api else self._cookies)
        if answer.status_code != 200:
            raise SystemExit(f"{page.path} answered {answer.status_code}: {answer.text[:300]}")
        return time.perf_counter() - began

    def stream(self, run_pk: int) -> int:
        """Bytes of a run's stream, to its end."""
        path = f"/api/v1/runs/{run_pk}/metrics/stream"
        received = 0
        with self.client.stream("GET", path, headers=self._headers) as answer:
            for piece in answer.iter_bytes():
                received += len(piece)
                if b'"status":"completed"' in piece:
                    break
        return received

    def count_queries(self, page: Page) -> int:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        with CaptureQueriesContext(connection) as captured:
            self.browser.get(page.path, headers=self._headers_for(page))
        return len(captured)

    def processor_time(self, page: Page) -> float:
        """Seconds of one answer: the median of five."""
        times = []
        for _ in range(5):
            began = time.process_time()
            self.browser.get(page.path, headers=self._headers_for(page))
            times.append(time.process_time() - began)
        return statistics.median(times)

    def _headers_for(self, page: Page) -> dict[str, str]:
        return self._headers if page.is_api else {}


def use_for_an_hour(port: int, user: User, pages: list[Page], sizes: Sizes, web: psutil.Process) -> bool:
    """As many requests as an hour brings, by four visitors as fast as they are answered. Whether memory stays flat."""
    from evsys_web.runs.models import TrainingRun

    watched = TrainingRun.objects.filter(metric_chunks__isnull=False).latest("pk").pk
    began, memory = time.perf_counter(), []

    def visit(visitor: Visitor, part: int) -> None:
        for number in range(sizes.hour_requests // NUM_PARTS // NUM_VISITORS):
            visitor.get(pages[(part + number) % len(pages)])
        for _ in range(max(1, sizes.hour_streams // NUM_PARTS // NUM_VISITORS)):
            visitor.stream(watched)

    visitors = [Visitor(port, user) for _ in range(NUM_VISITORS)]
    with ThreadPoolExecutor(NUM_VISITORS) as threads:
        for part in range(NUM_PARTS):
            list(threads.map(visit, visitors, [part] * NUM_VISITORS))
            memory.append(web.memory_info().rss)
    for visitor in visitors:
        visitor.client.close()
    shown = ", ".join(f"{rss / 1e6:.0f}" for rss in memory)
    say(f"an hour's use ({sizes.hour_requests:,} requests, {sizes.hour_streams} streams) in {time.perf_counter() - began:.0f} s;")
    say(f"memory of the web process after each tenth, MB: {shown}")
    return bool(memory[-1] < GROWTH * memory[NUM_PARTS // 5 - 1])


@contextmanager
def writers(user: User, sizes: Sizes) -> Iterator[list[psutil.Process]]:
    """Processes that each record a run at ten steps a second; at the end every step must be there."""
    from evsys_web.runs import metrics
    from evsys_web.runs.models import Status, TrainingRun

    command = [sys.executable, "-m", "benchmarks.live", "--write", str(user.pk), str(sizes.writer_steps)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), **pipes) for _ in range(sizes.writers)]  # type: ignore[call-overload]
    try:
        runs = [int(process.stdout.readline()) for process in started]
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        yield [psutil.Process(process.pid) for process in started]
        for process in started:
            process.wait(300)
    finally:
        for process in started:
            process.kill()
    for run in TrainingRun.objects.filter(pk__in=runs):
        steps = [row.step for row in metrics.rows(run)]
        if run.status != Status.COMPLETED or steps != list(range(1, sizes.writer_steps + 1)):
            raise SystemExit(f"Run {run.pk} is {run.status} with {len(steps)} of {sizes.writer_steps} steps.")


if __name__ == "__main__":
    raise SystemExit(main())
