"""TRL's SFTTrainer on the starter: it learns, tells every step, stops, goes on where it stopped, and fails with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from recipes.callbacks import read_metrics
from recipes.checkpoints import Manifest
from recipes.config import RunConfig
from recipes.errors import ConfigError
from recipes.protocols import Callback
from recipes.types import LoopState, Metrics, Row, TrainingBatch
from tests.recipes.algorithms.test_sft_local import sums
from tests.recipes.runs_under_test import Witness, run

ROOT = Path(__file__).resolve().parents[4]
SAVED_HALFWAY: dict[str, Any] = {"validation_fraction": 0.125, "save_at_fractions": [0.5, 1.0]}


def trl_config(kind: str = "local_sft", **params: Any) -> RunConfig:
    defaults = {"learning_rate": 3e-3, "batch_size": 8, "num_epochs": 2, "lora_rank": 4, "lr_schedule": "linear_decay", "seed": 5}
    values = {"data": {"dataset": "sums@1"}, "algorithm": {"kind": kind, "params": {**defaults, "device": "cpu", **params}}}
    return RunConfig.from_values(values)


def close(ours: dict[int, Metrics], theirs: dict[int, Metrics]) -> bool:
    return ours.keys() == theirs.keys() and all(ours[step] == pytest.approx(theirs[step], rel=1e-5, abs=1e-7) for step in ours)


def same_weights(one: Path, other: Path) -> bool:
    name = "checkpoints/final/sampler/adapter_model.safetensors"
    first, second = load_file(one / name), load_file(other / name)
    return first.keys() == second.keys() and all(first[key] == pytest.approx(second[key], abs=1e-6) for key in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Witness]:
    """A run that nobody interrupted: 6 steps, some rows held out."""
    folder, witness = tmp_path_factory.mktemp("whole"), Witness()
    result = run(trl_config(**SAVED_HALFWAY), folder, witness, rows=sums())
    assert (result.status, result.error, result.steps, result.num_steps) == ("completed", None, 6, 6)
    return folder, witness


def test_every_step_is_told_while_it_trains_and_the_loss_falls(whole: tuple[Path, Witness]) -> None:
    folder, witness = whole
    order = ["start", "step 1", "step 2", "step 3", "eval validation 3", "save step_3"]
    assert witness.calls == [*order, "step 4", "step 5", "step 6", "eval validation 6", "save final", "end"]
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert witness.steps[6]["train/mean_nll"] < witness.steps[1]["train/mean_nll"]
    assert witness.evals[6]["eval/validation_nll"] < witness.evals[3]["eval/validation_nll"]
    assert not [event for event in witness.events if event[0] != "info"]


def test_a_step_size_is_that_of_the_runs_own_schedule(whole: tuple[Path, Witness]) -> None:
    rates = [metrics["optim/lr"] for metrics in whole[1].steps.values()]
    assert rates == pytest.approx([3e-3 * (1 - step / 5) for step in range(6)])


def test_a_checkpoint_is_an_adapter_beside_trls_own_state(whole: tuple[Path, Witness]) -> None:
    folder, witness = whole
    assert [(each.name, each.step) for each in Manifest(folder).read()] == [("step_3", 3), ("final", 6)]
    final = folder / "checkpoints/final"
    assert json.loads((final / "sampler/adapter_config.json").read_text())["base_model_name_or_path"] == "starter"
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= {
        path.name for path in (final / "state").iterdir()
    }
    assert not (folder / "trl").exists(), "nothing is left where TRL writes"


def test_n_steps_a_stop_and_m_steps_are_as_one_run(tmp_path: Path, whole: tuple[Path, Witness]) -> None:
    first, second = Witness(stop_after=2), Witness()
    stopped = run(trl_config(**SAVED_HALFWAY), tmp_path, first, rows=sums())
    assert (stopped.status, stopped.steps, first.checkpoints[-1].name) == ("cancelled", 2, "step_2")
    result = run(trl_config(**SAVED_HALFWAY), tmp_path, second, rows=sums(), resume=True)
    assert (result.status, second.start_step, list(second.steps)) == ("completed", 2, [3, 4, 5, 6])
    assert close(first.steps | second.steps, whole[1].steps)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert same_weights(tmp_path, whole[0])


def test_passes_that_gather_a_batch_change_the_speed_and_not_the_curve(tmp_path: Path, whole: tuple[Path, Witness]) -> None:
    witness = Witness()
    run(trl_config(rows_at_once=2, max_steps=6, **SAVED_HALFWAY), tmp_path, witness, rows=sums())
    losses = [[metrics["train/loss"] for metrics in steps.values()] for steps in (witness.steps, whole[1].steps)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


class Killed(BaseException):
    """As if the process were gone: nothing is told, nothing more is saved."""


class Kills(Callback):
    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        if step == 5:
            raise Killed


def test_a_worker_that_is_killed_is_gone_on_from_the_newest_checkpoint(tmp_path: Path, whole: tuple[Path, Witness]) -> None:
    """Step 3 was saved, 4 and 5 are lost, and step 6 was half written to where TRL saves."""
    with pytest.raises(Killed):
        run(trl_config(**SAVED_HALFWAY), tmp_path, Kills(), rows=sums())
    half_written = tmp_path / "trl/checkpoint-6/optimizer.pt"
    half_written.parent.mkdir(parents=True)
    half_written.write_bytes(b"torn")
    witness = Witness()
    result = run(trl_config(**SAVED_HALFWAY), tmp_path, witness, rows=sums(), resume=True)
    assert (result.status, witness.start_step, list(witness.steps)) == ("completed", 3, [4, 5, 6])
    assert close({step: whole[1].steps[step] for step in (4, 5, 6)}, witness.steps)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert same_weights(tmp_path, whole[0]) and not (tmp_path / "trl").exists()


def test_a_second_stop_ends_at_once_and_saves_nothing(tmp_path: Path) -> None:
    witness = Witness(stop_after=1, times=2)
    result = run(trl_config(), tmp_path, witness, rows=sums())
    assert (result.status, result.steps, witness.checkpoints) == ("cancelled", 1, [])


def test_an_early_end_is_a_completed_run_with_its_final_checkpoint(tmp_path: Path) -> None:
    witness = Witness()
    patience = {"kind": "early_stopping", "params": {"metric": "train/loss", "mode": "max", "patience": 1}}
    result = run(trl_config(callbacks=[patience]), tmp_path, witness, rows=sums())
    assert result.status == "completed" and result.steps < 6
    assert [each.name for each in witness.checkpoints] == ["final"]


def test_a_failure_inside_trl_is_told_with_its_type_and_step_and_saves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer.sft_trainer import SFTTrainer

    compute, calls = SFTTrainer.compute_loss, []

    def breaks(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise ValueError("a bug")
        return compute(self, *arguments, **named)

    monkeypatch.setattr(SFTTrainer, "compute_loss", breaks)
    witness = Witness()
    with pytest.raises(ValueError, match="a bug"):
        run(trl_config(), tmp_path, witness, rows=sums())
    assert witness.result is not None and (witness.result.status, witness.result.error) == ("failed", "ValueError: a bug")
    told = [message for level, message in witness.events if level == "error"]
    assert told == ["Failed after step 2 of 6: ValueError: a bug"]
    assert [each.name for each in witness.checkpoints] == ["step_2"]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"precision": "bf16", "device": "auto"}, "There is no GPU here, and bf16 needs one"),
        ({"device": "cuda"}, "There is no CUDA device here"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(
    tmp_path: Path, params: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(trl_config(**params), tmp_path, rows=sums())
    assert result.status == "failed" and sentence in (result.error or "")


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"precision": "fp16"}, "precision fp16 needs a GPU"),
        ({"rows_at_once": 3}, "rows_at_once must divide the 8 rows of a step"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_read(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        trl_config(**params)


def test_rows_of_another_kind_are_refused_with_their_number(tmp_path: Path) -> None:
    rows: list[Row] = [*sums(2), {"prompt": "a", "chosen": "b", "rejected": "c"}]
    result = run(trl_config(), tmp_path, rows=rows)
    assert result.status == "failed" and "row 3" in (result.error or "").lower()


def test_a_changed_setting_refuses_to_go_on_and_the_backend_is_no_part_of_it(tmp_path: Path) -> None:
    run(trl_config(), tmp_path, Witness(stop_after=1), rows=sums())
    result = run(trl_config(learning_rate=1e-3), tmp_path, rows=sums(), resume=True)
    assert result.status == "failed" and "learning_rate" in (result.error or "")
    other = trl_config()
    other.backend.kind = "mock"
    witness = Witness(stop_after=2)
    assert run(other, tmp_path, witness, rows=sums(), resume=True).steps == 2
    assert ("warning", "local_sft trains by itself: the backend mock is not used.") in witness.events


def test_all_weights_are_trained_from_a_checkpoint_and_read_back(tmp_path: Path) -> None:
    whole = run(trl_config(lora_rank=0, max_steps=1), tmp_path / "first", rows=sums())
    folder = whole.artifacts["checkpoint-final"]
    assert (Path(folder) / "model.safetensors").is_file() and (Path(folder) / "tokenizer.json").is_file()
    further = trl_config(max_steps=1)
    further.model.init_from_checkpoint = folder
    assert run(further, tmp_path / "second", rows=sums()).status == "completed"


def test_one_process_takes_the_first_of_several_gpus() -> None:
    from trl.trainer.sft_config import SFTConfig

    from recipes.algorithms.trl.training import on_one_gpu

    config = SFTConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none")
    assert config.n_gpu == 0
    config._n_gpu = 4
    assert on_one_gpu(config).n_gpu == 1
