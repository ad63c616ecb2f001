"""n steps, a stop, a resume and m steps are the same as n + m steps; and what refuses to resume says why."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from recipes.callbacks import read_metrics
from recipes.checkpoints import Manifest
from recipes.errors import CheckpointError
from tests.recipes.runs_under_test import Witness, chats, config, run

PARAMS: dict[str, Any] = {
    "num_epochs": 4,
    "batch_size": 3,
    "lr_schedule": "cosine_with_warmup",
    "lr_warmup_steps": 3,
    "validation_fraction": 0.2,
    "validation_every": 5,
    "seed": 3,
}


@pytest.mark.parametrize("stop_after", [1, 4, 7, 11])
def test_a_stopped_and_resumed_run_is_bit_equal_to_one_that_was_never_stopped(tmp_path: Path, stop_after: int) -> None:
    whole, first, second = Witness(), Witness(stop_after=stop_after), Witness()
    straight = run(config(**PARAMS), tmp_path / "whole", whole)
    stopped = run(config(**PARAMS), tmp_path / "parts", first)
    assert (stopped.status, stopped.steps, stopped.num_steps) == ("cancelled", stop_after, 12)
    resumed = run(config(**PARAMS), tmp_path / "parts", second, resume=True)
    assert (resumed.status, resumed.steps) == ("completed", 12)
    assert second.start_step == stop_after
    assert first.steps | second.steps == whole.steps
    assert first.evals | second.evals == whole.evals
    weights = "checkpoints/final/sampler/weights.npz"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "parts" / weights).read_bytes()
    assert straight.metrics["train/mean_nll"] == resumed.metrics["train/mean_nll"]
    assert resumed.metrics["tokens/trained"] == straight.metrics["tokens/trained"]


def test_the_resumed_file_of_metrics_has_every_step_once(tmp_path: Path) -> None:
    run(config(num_epochs=4, save_every=2), tmp_path, Witness(stop_after=5))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "at": "", "metrics": {"train/mean_nll": 0}}\n{"step": 7, "a')  # a crash
    run(config(num_epochs=4, save_every=2), tmp_path, resume=True)
    assert [row["step"] for row in read_metrics(path) if "train/loss" in row["metrics"]] == list(range(1, 13))


def test_resuming_passes_over_a_checkpoint_whose_folder_is_gone(tmp_path: Path) -> None:
    run(config(num_epochs=4, save_every=2), tmp_path, Witness(stop_after=5))
    newest = Manifest(tmp_path).read()[-1]
    assert newest.name == "step_5" and newest.state_path
    Path(newest.state_path).rename(tmp_path / "lost")
    witness = Witness()
    result = run(config(num_epochs=4, save_every=2), tmp_path, witness, resume=True)
    assert (witness.start_step, result.steps) == (4, 12)
    assert [row.name for row in Manifest(tmp_path).read()] == ["step_2", "step_4", "step_6", "step_8", "step_10", "final"]


def test_resume_without_a_checkpoint_begins_at_the_beginning(tmp_path: Path) -> None:
    witness = Witness()
    assert run(config(max_steps=2), tmp_path, witness, resume=True).status == "completed"
    assert witness.start_step == 0


def test_a_completed_run_resumed_does_nothing_more(tmp_path: Path) -> None:
    run(config(max_steps=3), tmp_path)
    witness = Witness()
    result = run(config(max_steps=3), tmp_path, witness, resume=True)
    assert (result.status, result.steps, witness.steps, witness.checkpoints) == ("completed", 3, {}, [])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.01}, r"algorithm\.params\.learning_rate was 0.05 and is now 0.01"),
        ({"batch_size": 5, "seed": 9}, r"algorithm\.params\.batch_size was 4 and is now 5; algorithm\.params\.seed was 0"),
        ({"model": "another/model"}, r'model\.name was "starter" and is now "another/model"'),
    ],
)
def test_a_changed_setting_refuses_to_resume_and_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    run(config(num_epochs=2), tmp_path, Witness(stop_after=2))
    written = (tmp_path / "config.yaml").read_text()
    witness = Witness()
    result = run(config(num_epochs=2, **change), tmp_path, witness, resume=True)
    assert result.status == "failed" and result.error
    assert re.search(named, result.error)
    assert witness.calls == ["end"]
    assert (tmp_path / "config.yaml").read_text() == written


def test_changed_rows_refuse_to_resume_and_are_named(tmp_path: Path) -> None:
    run(config(num_epochs=2), tmp_path, Witness(stop_after=2))
    fewer = run(config(num_epochs=2), tmp_path, rows=chats(9), resume=True)
    assert fewer.error and "dataset.rows was 10 and is now 9" in fewer.error
    edited = chats()
    edited[4]["messages"][1]["content"] = "It is 5."
    assert "dataset.sha256" in (run(config(num_epochs=2), tmp_path, rows=edited, resume=True).error or "")


def test_when_to_save_may_change_at_a_resume(tmp_path: Path) -> None:
    run(config(num_epochs=2), tmp_path, Witness(stop_after=2))
    assert run(config(num_epochs=2, save_every=1), tmp_path, resume=True).status == "completed"


def test_starting_anew_in_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(config(max_steps=1), tmp_path)
    again = run(config(max_steps=1), tmp_path)
    assert again.status == "failed" and "already holds" in (again.error or "")


def test_a_manifest_changed_by_hand_is_refused_with_its_line(tmp_path: Path) -> None:
    run(config(max_steps=1), tmp_path)
    manifest = Manifest(tmp_path)
    manifest.path.write_text(manifest.path.read_text() + "not json\n")
    with pytest.raises(CheckpointError, match="Line 2"):
        manifest.read()
    result = run(config(max_steps=1), tmp_path, resume=True)
    assert result.status == "failed" and "Line 2" in (result.error or "")


def test_a_checkpoint_row_can_be_read_without_this_program(tmp_path: Path) -> None:
    run(config(max_steps=2, learning_rate=0.5), tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "checkpoints.jsonl").read_text().splitlines()]
    assert (row["name"], row["step"]) == ("final", 2)
    assert Path(row["state_path"]).is_dir() and Path(row["sampler_path"]).is_dir()
    assert row["cursor"]["next_step_index"] == 2
    assert (row["cursor"]["epoch"], row["cursor"]["batch_in_epoch"]) == (0, 2)


def test_a_killed_process_goes_on_with_no_step_lost_or_doubled(tmp_path: Path) -> None:
    slow = config(num_epochs=4, save_every=2)
    slow.backend.params = {"step_seconds": 0.05}
    script = (
        "from pathlib import Path\nfrom recipes.config import RunConfig\nfrom tests.recipes.runs_under_test import run\n"
        f"run(RunConfig.from_yaml(Path({str(tmp_path / 'slow.yaml')!r}).read_text()), Path({str(tmp_path / 'killed')!r}))\n"
    )
    (tmp_path / "slow.yaml").write_text(slow.to_yaml())
    worker = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    metrics = tmp_path / "killed" / "metrics.jsonl"
    try:
        deadline = monotonic() + 60
        while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
            assert worker.poll() is None and monotonic() < deadline
            sleep(0.01)
    finally:
        worker.kill()
        worker.wait()
    result = run(slow, tmp_path / "killed", resume=True)
    assert (result.status, result.steps) == ("completed", 12)
    whole = run(config(num_epochs=4, save_every=2), tmp_path / "whole")
    assert result.metrics["train/mean_nll"] == whole.metrics["train/mean_nll"]
    assert [row["step"] for row in read_metrics(metrics)] == list(range(1, 13))
