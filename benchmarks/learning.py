"""What each kind teaches the starter: pass@1 on its held-out sums before and after a run with the kind's own preset.

    python benchmarks/learning.py [sft rl dpo sdft local_sft local_dpo local_rl] [--quick]

200 held-out tasks, 8 attempts each; every number with its 95 % interval. Pairs for dpo are made of the starter's own attempts at
the training tasks. sdft begins from a starter that was first taught to read a demonstration, since as shipped it makes nothing of
one: half of those chats show a question with a worked example, half the bare question with the starter's own answer.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recipes
from recipes import starter
from recipes.config import RunConfig
from recipes.curation import CurationSettings, curate
from recipes.curation.settings import Rows
from recipes.demonstrations import DEMONSTRATION
from recipes.eval_config import EvalConfig
from recipes.evals.metrics import TaskCount, count_attempts, summarise
from recipes.evals.statistics import compare
from recipes.presets import recommended
from recipes.rollouts import AttemptResult
from recipes.types import Task

KINDS = ("sft", "rl", "dpo", "sdft", "local_sft", "local_dpo", "local_rl")
ROWS = Path(starter.__file__).parent / "rows"
TAUGHT = {"learning_rate": 0.002, "lr_schedule": "linear_decay", "lora_rank": 16, "batch_size": 32, "num_epochs": 3}


class Bench:
    """quick: does it run, not what does it teach."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self._pairs: list[Any] | None = None
        self.before = self.counts(None)

    def attempts(self, checkpoint: str | None, tasks: str = "tasks_held_out.jsonl", seed: int = 0) -> list[AttemptResult]:
        values: dict[str, Any] = {
            "model": {"name": "starter", "checkpoint": checkpoint},
            "data": {"path": str(ROWS / tasks)},
            "verifier": {"kind": "numeric"},
            "sampling": {"max_tokens": 64, "seed": seed},
            "attempts": 2 if self.quick else 8,
            "max_tasks": 20 if self.quick else None,
        }
        found: list[AttemptResult] = []
        result = recipes.evaluate(EvalConfig.from_values(values), on_attempt=found.append)
        assert result.status == "completed", result.error
        return found

    def counts(self, checkpoint: str | None) -> list[TaskCount]:
        return count_attempts(self.attempts(checkpoint))

    def train(self, name: str, kind: str, params: dict[str, Any], rows: list[Any], begin: str | None = None) -> tuple[str, int]:
        """The sampler weights of its end, and how many steps that took."""
        if self.quick:
            params = params | {"max_steps": 2, "validation_fraction": 0.0}
        config = RunConfig.from_values(
            {
                "name": name,
                "data": {"path": str(ROWS / "train.jsonl")},  # `rows` are taken instead
                "model": {"name": "starter", "init_from_checkpoint": begin},
                "algorithm": {"kind": kind, "params": params},
            }
        )
        result = recipes.train(config, run_id=name, output_dir=self.folder / name, rows=rows)
        assert result.status == "completed", result.error
        last = json.loads((self.folder / name / "checkpoints.jsonl").read_text().splitlines()[-1])
        return str(last["sampler_path"]), result.steps

    def pairs(self) -> list[Any]:
        """Every different right reply against different wrong ones of the same task, at most eight a task."""
        if self._pairs is None:
            attempts = self.attempts(None, "tasks_train.jsonl", seed=1)
            self._pairs = curate(attempts, CurationSettings(rows=Rows.PAIRS, max_pairs=8)).rows
        return self._pairs

    def taught(self) -> tuple[str, list[TaskCount]]:
        """A starter that reads demonstrations, and what it knows without one."""
        chats = _rows("train.jsonl")
        shown = [_chat(DEMONSTRATION.format(question=q, golden_answer=a), a) for q, a in map(_turns, chats[:800])]
        tasks = [Task(str(n), [each["messages"][0]], answer=0) for n, each in enumerate(chats[440:1240])]
        said = self._says(tasks)
        bare = [_chat(task.messages[0]["content"], said[task.task_id]) for task in tasks if said.get(task.task_id)]
        checkpoint, _ = self.train("taught", "sft", TAUGHT, shown + bare)
        return checkpoint, self.counts(checkpoint)

    def _says(self, tasks: list[Task]) -> dict[str, str]:
        """One reply of the starter to each."""
        values = {"model": {"name": "starter"}, "data": {"path": "-"}, "verifier": {"kind": "numeric"}, "attempts": 1}
        found: list[AttemptResult] = []
        config = EvalConfig.from_values({**values, "sampling": {"max_tokens": 64, "seed": 2}})
        recipes.evaluate(config, tasks=tasks, on_attempt=found.append)
        return {each.task_id: each.messages[-1]["content"] for each in found if each.error is None}

    def run(self, kind: str) -> None:
        before, begin = self.before, None
        if kind.endswith("dpo"):
            rows = self.pairs()
        elif kind.endswith("rl"):
            rows = _rows("tasks_train.jsonl")
        elif kind == "sdft":
            begin, before = self.taught()
            rows = _rows("train.jsonl")[1240:]
        else:
            rows = _rows("train.jsonl")
        clock, processor = time.perf_counter(), time.process_time()
        checkpoint, steps = self.train(kind, kind, dict(recommended("starter", kind).params), rows, begin)
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        after = self.counts(checkpoint)
        found = compare({each.task_id: each for each in before}, {each.task_id: each for each in after})
        say(
            f"{kind}: {len(rows):,} rows, {steps} steps; {_spelled(before)} before, {_spelled(after)} after,"
            f" p = {found.p_value or 0:.1g}; {processor:.0f} s of processor time, {clock:.0f} s by the clock"
        )


def _spelled(counts: list[TaskCount]) -> str:
    share = summarise(counts, ks=[1]).avg
    assert share is not None
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"


def _rows(name: str) -> list[Any]:
    return [json.loads(line) for line in (ROWS / name).read_text().splitlines()]


def _turns(row: Any) -> tuple[str, str]:
    question, reply = (message["content"] for message in row["messages"])
    return question, reply


def _chat(question: str, reply: str) -> Any:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="kind", help=", ".join(KINDS))
    parser.add_argument("--quick", action="store_true", help="Small sizes: does it run, not what does it teach.")
    options = parser.parse_args()
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        parser.error(f"there is no {', '.join(unknown)} here; choose from {', '.join(KINDS)}")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory(prefix="evsys-learning-") as folder:
        bench = Bench(Path(folder), quick=options.quick)
        for kind in options.kinds or KINDS:
            bench.run(kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
