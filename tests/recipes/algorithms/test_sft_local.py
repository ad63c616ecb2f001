"""SFT of the starter model on this machine: it learns, and a resume is bit-equal (float32, one thread)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.config import RunConfig
from recipes.types import Row
from tests.recipes.runs_under_test import Witness, run


def sums(count: int = 24) -> list[Row]:
    return [
        {"messages": [{"role": "user", "content": f"What is {a} + 38?"}, {"role": "assistant", "content": f"It makes {a + 38}."}]}
        for a in range(11, 11 + count)
    ]


def local_config(**params: Any) -> RunConfig:
    defaults = {"learning_rate": 3e-3, "batch_size": 8, "num_epochs": 4, "lora_rank": 4, "lr_schedule": "linear_decay", "seed": 5}
    return RunConfig.from_values(
        {
            "data": {"dataset": "sums@1"},
            "algorithm": {"kind": "sft", "params": defaults | params},
            "backend": {"kind": "local", "params": {"num_threads": 1, "device": "cpu"}},
        }
    )


def test_the_loss_falls_on_training_and_on_held_out_rows(tmp_path: Path) -> None:
    witness = Witness()
    result = run(local_config(num_epochs=12, batch_size=18, validation_fraction=0.25), tmp_path, witness, rows=sums())
    assert (result.status, result.error) == ("completed", None)
    nll = [row["train/mean_nll"] for row in witness.steps.values()]
    assert nll == sorted(nll, reverse=True), "every step sees all rows, so every step improves on the last"
    assert nll[-1] < 0.85 * nll[0]
    measured = [row["eval/validation_nll"] for row in witness.evals.values()]
    assert measured[-1] < 0.9 * measured[0]


def test_n_steps_a_stop_and_m_steps_are_bit_equal_to_n_plus_m(tmp_path: Path) -> None:
    whole, first, second = Witness(), Witness(stop_after=5), Witness()
    run(local_config(), tmp_path / "whole", whole, rows=sums())
    run(local_config(), tmp_path / "parts", first, rows=sums())
    result = run(local_config(), tmp_path / "parts", second, rows=sums(), resume=True)
    assert (result.status, second.start_step) == ("completed", 5)
    assert first.steps | second.steps == whole.steps
    for path in sorted((tmp_path / "whole/checkpoints/final/sampler").glob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "parts/checkpoints/final/sampler" / path.name).read_bytes()


def test_a_folder_that_is_no_model_fails_with_a_sentence(tmp_path: Path) -> None:
    settings = local_config()
    settings.model.name = str(tmp_path)
    result = run(settings, tmp_path / "run", rows=sums())
    assert result.status == "failed" and "config.json" in (result.error or "")
