"""One of TRL's runs over several processes, as a script that accelerate launches:

    accelerate launch --num_processes 2 -m recipes.algorithms.trl run.yaml --output-dir runs/1 [--resume]

How many GPUs or machines, FSDP and DeepSpeed are accelerate's own settings (`accelerate config`, or its options). The run
directory is as of any other run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import recipes
from recipes.algorithms.trl.processes import rank
from recipes.config import RunConfig
from recipes.errors import RecipeError


def main() -> int:
    """0 when the run completed, 1 when it failed or was stopped."""
    parser = argparse.ArgumentParser(prog="recipes.algorithms.trl", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path, help="the run as YAML; its data is a path")
    parser.add_argument("--output-dir", type=Path, required=True, help="the run directory")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint there")
    options = parser.parse_args()
    try:
        config = RunConfig.from_yaml(options.config.read_text(encoding="utf-8"))
    except (OSError, RecipeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    result = recipes.train(config, run_id=options.output_dir.name, output_dir=options.output_dir, resume=options.resume)
    if rank() == 0:
        sys.stdout.write(f"{result.status} after step {result.steps} of {result.num_steps}\n{result.error or ''}")
    return 0 if result.status == "completed" else 1


if __name__ == "__main__":
    raise SystemExit(main())
