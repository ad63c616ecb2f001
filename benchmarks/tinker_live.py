"""Tinker's hosted service itself, for a few cents: what the tests can only play.

    TINKER_API_KEY=tml-… python benchmarks/tinker_live.py [--model Qwen/Qwen3-8B]

Trains two steps on four rows, saves with a lifetime of an hour, samples from the checkpoint without a training client and reads
back when it expires. It is a command and no test: a test that is left out where there is no key looks like one that passed.
Without a key it says so and ends with status 2. Nobody has run it against the service yet.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recipes
from recipes.backends.tinker.connection import KEY_VARIABLE
from recipes.checkpoints import Manifest
from recipes.config import RunConfig
from recipes.eval_config import EvalConfig
from recipes.protocols import Callback
from recipes.types import LoopState, Metrics, Row, Task, TrainingBatch


class Told(Callback):
    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        print(f"step {step}: loss {metrics['train/loss']:.4f}, {metrics['time/step']:.1f} s")  # noqa: T201

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        print(f"{level}: {message}")  # noqa: T201


def rows() -> list[Row]:
    return [
        {"messages": [{"role": "user", "content": f"{n} + {n}?"}, {"role": "assistant", "content": str(2 * n)}]}
        for n in range(4, 8)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen3-8B")
    parser.add_argument("--base-url", help="another server of the protocol; its key goes into the same variable")
    asked = parser.parse_args()
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        print(f"NOT RUN: there is no {KEY_VARIABLE}, so nothing was asked of the service.", file=sys.stderr)  # noqa: T201
        return 2
    backend = {"kind": "tinker", "params": {"base_url": asked.base_url, "checkpoint_ttl_hours": 1, "timeout_seconds": 600}}
    config = RunConfig.from_values(
        {
            "name": "live",
            "data": {"path": "four-rows.jsonl"},
            "model": {"name": asked.model},
            "algorithm": {"kind": "sft", "params": {"lora_rank": 4, "batch_size": 4, "max_steps": 2, "learning_rate": 1e-3}},
            "backend": backend,
        }
    )
    secrets = {"backend_api_key": key}
    with tempfile.TemporaryDirectory() as folder:
        trained = recipes.train(config, run_id="live", output_dir=Path(folder), rows=rows(), callbacks=[Told()], secrets=secrets)
        if trained.status != "completed":
            print(f"FAILED: {trained.error}", file=sys.stderr)  # noqa: T201
            return 1
        saved = Manifest(Path(folder)).read()[-1]
        values = {
            "model": {"name": asked.model, "checkpoint": saved.sampler_path},
            "backend": backend,
            "data": {"path": "one-task.jsonl"},
            "verifier": {"kind": "numeric"},
            "attempts": 2,
            "sampling": {"max_tokens": 16},
        }
        found = recipes.evaluate(EvalConfig.from_values(values), tasks=[_task()], secrets=secrets)
    is_kept = saved.expires_at is not None and saved.expires_at - datetime.now(UTC) < timedelta(hours=1, minutes=5)
    print(f"eval: {found.status}, {found.num_done} attempts, error {found.error}")  # noqa: T201
    print(f"expires: {saved.expires_at}; {'as asked' if is_kept else 'NOT as asked'}")  # noqa: T201
    return 0 if found.status == "completed" and found.num_done == 2 and is_kept else 1


def _task() -> Task:
    return Task(task_id="one", messages=[{"role": "user", "content": "5 + 5?"}], answer="10")


if __name__ == "__main__":
    sys.exit(main())
