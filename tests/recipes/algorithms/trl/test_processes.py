"""Two processes are one run, launched by the one that was asked for it: the curve of one, its files, a stop, their end."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.algorithms.trl import launching
from recipes.algorithms.trl.__main__ import main
from recipes.algorithms.trl.sft import LocalSFT
from recipes.callbacks import read_metrics
from recipes.checkpoints import Manifest
from recipes.errors import ConfigError
from tests.recipes.algorithms.test_sft_local import sums
from tests.recipes.algorithms.trl.test_local_sft import ROOT, trl_config
from tests.recipes.runs_under_test import Witness, run

FAKE = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--launched-from") + 1])
told = (folder / "told.jsonl").open("a", buffering=1)
def tell(what, **values):
    print(json.dumps({"what": what, **values}), file=told)
def wait_for_a_stop():
    for _ in range(600):
        if (folder / "stop").exists():
            return (folder / "stop").read_text()
        time.sleep(0.1)
tell("start", step=0, num_steps=9)
tell("step", step=1, metrics={"train/loss": "NaN"})
"""
END = """
result = {"run_id": "7", "status": "cancelled", "metrics": {}, "artifacts": {}, "error": None, "steps": 1, "num_steps": 9}
tell("event", step=1, level="info", message=f"asked to stop: {wait_for_a_stop()}")
tell("end", step=1, result=result)
"""


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """In place of the processes, a script that says what they might say."""
    script = folder / "fake.py"
    script.write_text(FAKE + ending)
    monkeypatch.setattr(launching, "_starter", lambda *anything: [sys.executable, str(script)])


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """16 rows are trained, two steps of 8 an epoch: accelerate fills up a smaller one with rows that were seen already."""
    settings = {"max_steps": 3, "save_every": 2, "validation_fraction": 0.125, "device": "cpu"}
    both, alone = Witness(), Witness()
    result = run(trl_config(num_processes=2, **settings), tmp_path / "two", both, rows=sums(18))
    assert result.status == "completed", result.error
    run(trl_config(**settings), tmp_path / "one", alone, rows=sums(18))
    calls = ["start", "step 1", "step 2", "eval validation 2", "save step_2", "step 3", "eval validation 3", "save final", "end"]
    assert both.calls == calls, "each once, not once per process"
    losses = [metrics["train/loss"] for metrics in both.steps.values()]
    assert losses == pytest.approx([metrics["train/loss"] for metrics in alone.steps.values()], rel=1e-3)
    told = [row["step"] for row in read_metrics(tmp_path / "two/metrics.jsonl") if "train/loss" in row["metrics"]]
    assert told == [1, 2, 3] and not (tmp_path / "two/processes").exists()
    assert [(each.name, each.step) for each in Manifest(tmp_path / "two").read()] == [("step_2", 2), ("final", 3)]
    states = {path.name for path in (tmp_path / "two/checkpoints/final/state").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= states, "the random state of each process is part of the checkpoint"


def test_a_stop_reaches_the_processes_and_their_words_the_callbacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, END)
    witness = Witness(stop_after=1)
    result = run(trl_config(num_processes=2, device="cpu"), tmp_path / "run", witness, rows=sums(8))
    assert (result.status, result.steps, witness.calls) == ("cancelled", 1, ["start", "step 1", "end"])
    assert witness.events[-1] == ("info", "asked to stop: after_step") and math.isnan(witness.steps[1]["train/loss"])


def test_processes_that_die_end_the_run_with_their_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "sys.exit('the GPU is on fire')")
    witness = Witness()
    result = run(trl_config(num_processes=2, device="cpu"), tmp_path / "run", witness, rows=sums(8))
    assert result.status == "failed" and "exit status 1" in (result.error or "") and "on fire" in (result.error or "")
    assert witness.calls[-1] == "end" and witness.events[-1][0] == "error" and "step 1 of 9" in witness.events[-1][1]


def test_processes_end_with_the_one_that_launched_them() -> None:
    source = "import time; from recipes.algorithms.trl.telling import die_with_the_launcher as die; die(); time.sleep(120)"
    process = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 1


def test_a_share_of_the_rows_must_be_whole() -> None:
    with pytest.raises(ConfigError, match="num_processes must divide the 8 rows of a step"):
        trl_config(num_processes=3)


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


def test_fewer_gpus_than_processes_are_a_sentence_and_no_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate would start one process, which would launch again."""
    fake(tmp_path, monkeypatch, "sys.exit('launched')")
    monkeypatch.setattr(launching, "on_processors", lambda device: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    witness = Witness()
    result = run(trl_config(num_processes=2), tmp_path / "run", witness, rows=sums(8))
    assert result.status == "failed" and result.error == (
        "num_processes 2 needs a GPU each, and 1 GPU can be seen here. Lower it."
    )
    assert witness.calls == ["end"] and not (tmp_path / "run/processes").exists()


def test_one_process_where_several_were_asked_for_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As accelerate leaves it on a machine without several GPUs."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", ["trl", str(tmp_path / "none.yaml"), "--output-dir", str(tmp_path)])
    assert main() == 1
    assert "started one" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main() == 1
    assert "none.yaml" in capsys.readouterr().err
