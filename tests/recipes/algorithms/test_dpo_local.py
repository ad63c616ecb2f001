"""Preferences on the starter model: it begins at its reference, tells right sums from wrong ones, and a resume is bit-equal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from recipes.types import Row
from tests.recipes.runs_under_test import Witness, config, run

PARAMS: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "lora_rank": 4, "seed": 3, "grad_clip_norm": 1.0}


def sums(count: int = 24) -> list[Row]:
    """Right is preferred over one too many."""
    return [
        {"prompt": f"What is {a} + 38?", "chosen": f"It makes {a + 38}.", "rejected": f"It makes {a + 39}."}
        for a in range(11, 11 + count)
    ]


def dpo(folder: Path, *callbacks: Any, resume: bool = False, **params: Any) -> Any:
    chosen = config("dpo", backend="local", **PARAMS | params)
    chosen.backend.params = {"num_threads": 1, "device": "cpu"}
    return run(chosen, folder, *callbacks, rows=sums(), resume=resume)


def test_a_resumed_run_is_bit_equal_to_one_that_was_never_stopped(tmp_path: Path) -> None:
    params: dict[str, Any] = {"num_epochs": 2, "validation_fraction": 0.25, "validation_every": 2}
    whole, first, second = Witness(), Witness(stop_after=2), Witness()
    assert dpo(tmp_path / "whole", whole, **params).status == "completed"
    dpo(tmp_path / "parts", first, **params)
    assert dpo(tmp_path / "parts", second, resume=True, **params).status == "completed"
    assert first.steps | second.steps == whole.steps
    assert first.evals | second.evals == whole.evals
    weights = "checkpoints/final/sampler/adapter_model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "parts" / weights).read_bytes()


def test_it_begins_at_its_reference_and_learns_what_is_preferred(tmp_path: Path) -> None:
    witness = Witness()
    result = dpo(tmp_path, witness, num_epochs=8, batch_size=24, learning_rate=3e-3)
    assert (result.status, result.error) == ("completed", None)
    first, last = witness.steps[1], witness.steps[8]
    assert first["train/loss"] == pytest.approx(math.log(2), abs=1e-5) and first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert last["train/loss"] < first["train/loss"] - 0.05 and last["rewards/margins"] > 0.1
    assert last["rewards/accuracies"] > 0.7


def test_an_adapter_that_a_run_begins_from_is_its_reference(tmp_path: Path) -> None:
    trained = dpo(tmp_path / "first", num_epochs=2, batch_size=24)
    settings = config("dpo", backend="local", **PARAMS | {"max_steps": 2, "batch_size": 24})
    settings.model.init_from_checkpoint = trained.artifacts["checkpoint-final"]
    witness = Witness()
    assert run(settings, tmp_path / "second", witness, rows=sums()).status == "completed"
    assert witness.steps[1]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert witness.steps[2]["rewards/margins"] > 0
