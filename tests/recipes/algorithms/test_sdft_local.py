"""Self-distillation on the starter model: a resume is bit-equal, the teacher stays where it was, and the student comes to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipes.starter.tasks import draw_rows
from tests.recipes.runs_under_test import Witness, config, run

PARAMS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 8,
    "lora_rank": 4,
    "seed": 3,
    "max_tokens": 24,
    "grad_clip_norm": 1.0,
}
PARAMS |= {"skip_first_n_tokens": 0, "topk": 16}


def train(folder: Path, *callbacks: Any, kind: str = "sdft", init: str | None = None, resume: bool = False, **params: Any) -> Any:
    chosen = config(kind, backend="local", **params)
    chosen.backend.params = {"num_threads": 1, "device": "cpu"}
    chosen.model.init_from_checkpoint = init
    result = run(chosen, folder, *callbacks, rows=draw_rows(64), resume=resume)
    assert result.error is None
    return result


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that have left the base: they work sums out, where the base mostly answers at once."""
    result = train(tmp_path_factory.mktemp("sft"), kind="sft", learning_rate=3e-3, batch_size=32, lora_rank=4, max_steps=8)
    uri: str = result.artifacts["checkpoint-final"]
    return uri


def untimed(steps: dict[int, Any]) -> dict[int, Any]:
    return {step: {key: value for key, value in metrics.items() if key != "time/rollouts"} for step, metrics in steps.items()}


@pytest.mark.parametrize("teacher", ["base", "start"])
def test_a_resumed_run_is_bit_equal_to_one_that_was_never_stopped(tmp_path: Path, worked: str, teacher: str) -> None:
    params = PARAMS | {"max_steps": 4, "teacher": teacher, "validation_fraction": 0.1, "validation_every": 2}
    whole, first, second = Witness(), Witness(stop_after=2), Witness()
    train(tmp_path / "whole", whole, init=worked, **params)
    train(tmp_path / "parts", first, init=worked, **params)
    train(tmp_path / "parts", second, init=worked, resume=True, **params)
    assert untimed(first.steps | second.steps) == untimed(whole.steps)
    assert first.evals | second.evals == whole.evals
    weights = "checkpoints/final/sampler/adapter_model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "parts" / weights).read_bytes()


def test_a_student_that_reads_what_its_teacher_reads_begins_where_the_teacher_is(tmp_path: Path, worked: str) -> None:
    """KL over the likeliest 128 of 512 tokens: 0 but for what the others share."""
    params = PARAMS | {"max_steps": 1, "demo_template": "", "topk": 128}
    start, base = Witness(), Witness()
    train(tmp_path / "start", start, init=worked, teacher="start", **params)
    train(tmp_path / "base", base, init=worked, teacher="base", **params)
    assert 0 <= start.steps[1]["kl/teacher"] < 1e-3
    assert base.steps[1]["kl/teacher"] > 10 * start.steps[1]["kl/teacher"]


def test_it_comes_to_its_teacher(tmp_path: Path, worked: str) -> None:
    """Back to the base model, from its own replies: held-out rows too."""
    witness = Witness()
    params = PARAMS | {
        "learning_rate": 3e-3,
        "batch_size": 16,
        "max_steps": 10,
        "validation_fraction": 0.2,
        "validation_every": 1,
    }
    train(tmp_path, witness, init=worked, demo_template="", **params)
    first, last = witness.evals[1]["eval/validation_kl"], witness.evals[10]["eval/validation_kl"]
    assert last < 0.5 * first and witness.steps[10]["kl/teacher"] < witness.steps[1]["kl/teacher"]
