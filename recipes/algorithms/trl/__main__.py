"""One of TRL's runs over several processes, as a script that accelerate launches:

    accelerate launch --num_processes 2 -m recipes.algorithms.trl run.yaml --output-dir runs/1 [--resume]

How many GPUs or machines, FSDP and DeepSpeed are accelerate's own settings (`accelerate config`, or its options). The run
directory is as of any other run. A run that asks for several processes (`num_processes`) launches them so by itself. Processes
without a GPU each are started by `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu`, whatever that option's name says.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import recipes
from recipes.algorithms.trl.processes import is_alone_by_mistake, rank
from recipes.algorithms.trl.telling import HELD_OUT_FILE, ROWS_FILE, Tells, die_with_the_launcher
from recipes.config import RunConfig
from recipes.errors import RecipeError
from recipes.types import Row

ALONE = """accelerate was asked for several processes and started one, since it sees no GPU for each. Ask for one per GPU; or,
to train on processors, set ACCELERATE_USE_CPU=true and give accelerate launch the option --multi_gpu.
"""


def main() -> int:
    """0 when the run completed, 1 when it failed or was stopped."""
    parser = argparse.ArgumentParser(prog="recipes.algorithms.trl", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path, help="the run as YAML; its data is a path")
    parser.add_argument("--output-dir", type=Path, required=True, help="the run directory")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint there")
    parser.add_argument("--run-id", help="by default the name of the run directory")
    parser.add_argument("--launched-from", type=Path, help="for recipes.algorithms.trl.launching: the folder to talk through")
    options = parser.parse_args()
    if is_alone_by_mistake():
        sys.stderr.write(ALONE)
        return 1
    talk: dict[str, Any] = {}
    if options.launched_from is not None:
        die_with_the_launcher()
        talk = _talk(options.launched_from)
    try:
        config = RunConfig.from_yaml(options.config.read_text(encoding="utf-8"))
    except (OSError, RecipeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    run_id = options.run_id or options.output_dir.name
    result = recipes.train(config, run_id=run_id, output_dir=options.output_dir, resume=options.resume, **talk)
    if rank() == 0:
        sys.stdout.write(f"{result.status} after step {result.steps} of {result.num_steps}\n{result.error or ''}")
    return 0 if result.status == "completed" else 1


def _talk(folder: Path) -> dict[str, Any]:
    """The rows that the launcher has, and the callback that tells it."""
    found: dict[str, Any] = {"rows": _rows(folder / ROWS_FILE), "callbacks": [Tells(folder)] if rank() == 0 else []}
    held_out = folder / HELD_OUT_FILE
    return found | ({"validation_rows": _rows(held_out)} if held_out.exists() else {})


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


if __name__ == "__main__":
    raise SystemExit(main())
