"""Speed and memory of bringing in attempts made elsewhere, against reading the same file with nothing but a JSON parser.

    python benchmarks/attempt_import.py [--quick]

The bare reader parses each line and keeps the latest: what any importer must do at least. The import checks every attempt,
then writes it to SQLite with its task's counters, as the command and the upload page do. Both run in one process, in turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._product import Product, say, throwaway_product

ATTEMPTS_PER_TASK = 8
REPLY = "First add the units, then the tens, and carry what is left over. " * 18


def write_attempts(path: Path, num_tasks: int) -> int:
    """Plain JSONL, about 1.4 kB an attempt; returns how many."""
    with path.open("w") as file:
        for task in range(num_tasks):
            question = {"role": "user", "content": f"What is {task} + {task % 97}?"}
            for attempt in range(ATTEMPTS_PER_TASK):
                right = (task + attempt) % 3 == 0
                reply = {"role": "assistant", "content": f"{REPLY}Answer: {task}"}
                row = {"task_id": f"task-{task:06}", "attempt": attempt, "is_correct": right, "reward": float(right)}
                file.write(json.dumps(row | {"messages": [question, reply]}) + "\n")
    return num_tasks * ATTEMPTS_PER_TASK


def bare_reading(path: Path) -> float:
    started = time.perf_counter()
    with path.open() as file:
        for line in file:
            json.loads(line)
    return time.perf_counter() - started


def importing(path: Path, product: Product, number: int) -> float:
    from evsys_web.evals.import_actions import import_attempts

    started = time.perf_counter()
    import_attempts(user=product.user, project=product.user.default_project(), path=path, name=f"import {number}")
    return time.perf_counter() - started


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer attempts, one trial")
    quick = parser.parse_args().quick
    with throwaway_product() as product:
        path = product.home / "attempts.jsonl"
        num_attempts = write_attempts(path, 500 if quick else 5000)
        idle = peak_megabytes()
        trials = [(bare_reading(path), importing(path, product, number)) for number in range(1 if quick else 3)]
        reading, whole = (min(times) for times in zip(*trials, strict=True))
        say(f"{num_attempts:,} attempts, {path.stat().st_size / 1e6:.0f} MB")
        say(f"{'':24} {'seconds':>9} {'attempts/s':>12} {'MB/s':>8}")
        for name, seconds in (("bare JSON reading", reading), ("checked and imported", whole)):
            speed = path.stat().st_size / 1e6 / seconds
            say(f"{name:24} {seconds:9.2f} {num_attempts / seconds:12,.0f} {speed:8.1f}")
        say(f"import takes {whole / reading:.1f} times as long; peak memory {peak_megabytes() - idle:.0f} MB over idle")
    return 0


if __name__ == "__main__":
    sys.exit(main())
