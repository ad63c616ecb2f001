"""TRL's DPOTrainer on the starter: the loss of our dpo on the same pairs, a stop and a resume, what it leaves out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from recipes.types import Row
from tests.recipes.algorithms.trl.test_local_sft import close, same_weights, trl_config
from tests.recipes.runs_under_test import Witness, config, run


def pairs(count: int = 8) -> list[Row]:
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {a} + 38?"}],
            "chosen": [{"role": "assistant", "content": f"Answer: {a + 38}"}],
            "rejected": [{"role": "assistant", "content": f"Answer: {a + 28}, I think"}],
        }
        for a in range(11, 11 + count)
    ]


def dpo_config(**params: Any) -> Any:
    return trl_config("local_dpo", **{"batch_size": 4, "learning_rate": 1e-3, **params})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Witness]:
    """Four steps over seven pairs; one is held out."""
    folder, witness = tmp_path_factory.mktemp("whole"), Witness()
    result = run(dpo_config(validation_fraction=0.125), folder, witness, rows=pairs())
    assert (result.status, result.error, result.steps) == ("completed", None, 4)
    return folder, witness


def test_it_begins_at_its_reference_and_learns_to_tell_the_sides_apart(whole: tuple[Path, Witness]) -> None:
    witness = whole[1]
    assert witness.steps[1]["train/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert witness.steps[1]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert witness.steps[4]["rewards/margins"] > 0.01 and witness.steps[4]["rewards/accuracies"] == 1
    assert witness.evals[4]["eval/validation_margin"] > witness.evals[2]["eval/validation_margin"]
    assert not [key for key in witness.steps[4] if key.startswith("trl/")], "every name of TRL's is one of ours"


def test_a_step_on_the_same_pairs_is_that_of_our_own_dpo(tmp_path: Path) -> None:
    """All pairs in one batch, so that the order of rows is no matter; the same adapters to begin with."""
    same: dict[str, Any] = {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-3, "lora_rank": 4, "seed": 5}
    theirs, ours = Witness(), Witness()
    run(trl_config("local_dpo", **same, lr_schedule="constant"), tmp_path / "trl", theirs, rows=pairs())
    run(config("dpo", backend="local", **same), tmp_path / "own", ours, rows=pairs())
    for key in ("train/loss", "rewards/margins", "rewards/chosen"):
        assert [row[key] for row in theirs.steps.values()] == pytest.approx([row[key] for row in ours.steps.values()], abs=2e-4)


def test_n_steps_a_stop_and_m_steps_are_as_one_run(tmp_path: Path, whole: tuple[Path, Witness]) -> None:
    """The reference of the second part is where the first began, not where it stopped."""
    first, second = Witness(stop_after=3), Witness()
    assert run(dpo_config(validation_fraction=0.125), tmp_path, first, rows=pairs()).status == "cancelled"
    result = run(dpo_config(validation_fraction=0.125), tmp_path, second, rows=pairs(), resume=True)
    assert (result.status, second.start_step, list(second.steps)) == ("completed", 3, [4])
    assert close(first.steps | second.steps, whole[1].steps)
    assert same_weights(tmp_path, whole[0])


def test_a_run_that_goes_on_from_an_adapter_takes_it_for_its_reference(tmp_path: Path, whole: tuple[Path, Witness]) -> None:
    further = dpo_config(max_steps=1)
    further.model.init_from_checkpoint = str(whole[0] / "checkpoints/final/sampler")
    witness = Witness()
    run(further, tmp_path, witness, rows=pairs())
    assert witness.steps[1]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    names = load_file(tmp_path / "checkpoints/final/sampler/adapter_model.safetensors")
    assert not [name for name in names if "ref" in name.split(".")], "the reference is no part of what was trained"


def test_all_weights_are_trained_against_the_model_as_it_was(tmp_path: Path) -> None:
    witness = Witness()
    result = run(dpo_config(lora_rank=0, max_steps=2, learning_rate=1e-4, loss="ipo"), tmp_path, witness, rows=pairs())
    assert (result.status, result.error) == ("completed", None)
    assert witness.steps[1]["train/loss"] == pytest.approx((1 / (2 * 0.1)) ** 2, rel=1e-4)
    assert witness.steps[2]["rewards/margins"] > 0


def test_rows_that_are_no_pairs_are_refused_with_their_number(tmp_path: Path) -> None:
    rows: list[Row] = [*pairs(2), {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    result = run(dpo_config(), tmp_path, rows=rows)
    assert result.status == "failed" and "row 3" in (result.error or "").lower()
