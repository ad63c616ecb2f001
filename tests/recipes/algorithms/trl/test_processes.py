"""Two processes that accelerate launches are one run: the curve of one process, its files, a resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.algorithms.trl.sft import LocalSFT
from recipes.callbacks import read_metrics
from recipes.checkpoints import Manifest
from recipes.stores import write_atomically
from tests.recipes.algorithms.test_sft_local import sums
from tests.recipes.algorithms.trl.test_local_sft import ROOT, trl_config
from tests.recipes.runs_under_test import Witness, run
from tests.stack import free_port


def launch(config: Path, output_dir: Path) -> subprocess.CompletedProcess[str]:
    """As `accelerate launch` does for several GPUs, which it leaves to torchrun; on processors, for which it would want MPI."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    command += ["-m", "recipes.algorithms.trl", str(config), "--output-dir", str(output_dir)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """16 rows are trained, two steps of 8 an epoch: accelerate fills up a smaller one with rows that were seen already."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in sums(18)))
    settings = trl_config(max_steps=3, save_every=2, validation_fraction=0.125)
    settings.data.dataset, settings.data.path = None, str(rows)
    write_atomically(tmp_path / "run.yaml", settings.to_yaml())
    done = launch(tmp_path / "run.yaml", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "completed after step 3 of 3" in done.stdout
    alone = Witness()
    run(settings, tmp_path / "one", alone, rows=sums(18))
    told = [row for row in read_metrics(tmp_path / "two/metrics.jsonl") if "train/loss" in row["metrics"]]
    assert [row["step"] for row in told] == [1, 2, 3], "each step once, not once per process"
    losses = [row["metrics"]["train/loss"] for row in told]
    assert losses == pytest.approx([metrics["train/loss"] for metrics in alone.steps.values()], rel=1e-3)
    assert [(each.name, each.step) for each in Manifest(tmp_path / "two").read()] == [("step_2", 2), ("final", 3)]
    states = {path.name for path in (tmp_path / "two/checkpoints/final/state").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= states, "the random state of each process is part of the checkpoint"


def test_a_process_beside_the_first_tells_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert not LocalSFT().writes
    witness = Witness()
    result = run(trl_config(batch_size=8, max_steps=1, precision="float32"), tmp_path, witness, rows=[])
    assert result.status == "failed" and witness.calls == [] and not (tmp_path / "metrics.jsonl").exists()


def test_rows_that_processes_cannot_share_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    result = run(trl_config(max_steps=1), tmp_path, rows=sums())
    assert result.status == "failed" and "8 rows of a step cannot be shared by 3 processes" in (result.error or "")
