"""Whole runs and evals through the official SDK: every step-driven algorithm, a resume, and what goes on from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import recipes
from recipes import starter
from recipes.config import RunConfig
from recipes.eval_config import EvalConfig
from recipes.protocols import Callback
from recipes.types import LoopState, Metrics, RunResult, StopRequest, TrainingBatch
from tests.recipes.tinker_stack import KEY

ROWS = Path(starter.__file__).parent / "rows"
SECRETS = {"backend_api_key": KEY}


class Curve(Callback):
    def __init__(self, stop_at: int | None = None) -> None:
        self.losses: list[float] = []
        self._stop_at = stop_at

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        self.losses.append(metrics["train/loss"])
        if step == self._stop_at:
            state.stop_requested = StopRequest.AFTER_STEP


def config(url: str, kind: str, path: Path, *, model: dict[str, Any] | None = None, **params: Any) -> RunConfig:
    values = {
        "name": kind,
        "data": {"path": str(path)},
        "model": {"name": "starter", **(model or {})},
        "algorithm": {"kind": kind, "params": {"lora_rank": 4, "learning_rate": 1e-3, **params}},
        "backend": {"kind": "tinker", "params": {"base_url": url}},
    }
    return RunConfig.from_values(values)


def train(run: RunConfig, folder: Path, *callbacks: Callback, resume: bool = False) -> RunResult:
    result = recipes.train(run, run_id="1", output_dir=folder, secrets=SECRETS, callbacks=callbacks, resume=resume)
    assert result.status == "completed", result.error
    return result


def test_a_run_learns_and_its_checkpoint_is_evaluated_and_continued_from(tinker_url: str, tmp_path: Path) -> None:
    curve = Curve()
    rows = ROWS / "train.jsonl"
    result = train(config(tinker_url, "sft", rows, batch_size=32, max_steps=12, learning_rate=3e-3), tmp_path / "a", curve)
    assert curve.losses[-1] < 0.5 * curve.losses[0]
    uri = result.artifacts["checkpoint-final"]
    assert uri.startswith("tinker://") and "/sampler_weights/final" in uri
    held_out = EvalConfig.from_values(
        {
            "model": {"name": "starter", "checkpoint": uri},
            "backend": {"kind": "tinker", "params": {"base_url": tinker_url}},
            "data": {"path": str(ROWS / "tasks_held_out.jsonl")},
            "verifier": {"kind": "numeric"},
            "attempts": 2,
            "max_tasks": 10,
            "sampling": {"max_tokens": 64},
        }
    )
    verdicts: list[bool | None] = []
    found = recipes.evaluate(held_out, secrets=SECRETS, on_attempt=lambda attempt: verdicts.append(attempt.is_correct))
    assert found.status == "completed" and found.num_done == 20 and sum(map(bool, verdicts)) > 10
    again = Curve()
    train(config(tinker_url, "sft", rows, model={"init_from_checkpoint": uri}, batch_size=32, max_steps=1), tmp_path / "b", again)
    assert again.losses[0] < 0.6 * curve.losses[0], "it goes on from the trained weights"


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tinker_url: str, tmp_path: Path) -> None:
    run = config(tinker_url, "sft", ROWS / "train.jsonl", batch_size=8, max_steps=4)
    whole, first, second = Curve(), Curve(stop_at=2), Curve()
    train(run, tmp_path / "whole", whole)
    stopped = recipes.train(run, run_id="1", output_dir=tmp_path / "parts", secrets=SECRETS, callbacks=[first])
    assert stopped.status == "cancelled"
    train(run, tmp_path / "parts", second, resume=True)
    assert first.losses + second.losses == whole.losses


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("rl", {"verifier_name": "numeric", "batch_size": 4, "num_samples": 4}),
        ("dpo", {"batch_size": 4, "beta": 0.1}),
        ("sdft", {"batch_size": 4, "topk": 8, "max_tokens": 24}),
    ],
)
def test_rollouts_preferences_and_teachers_train_there_too(
    tinker_url: str, tmp_path: Path, kind: str, params: dict[str, Any]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(
            json.dumps({"prompt": f"What is {a} + {a}?", "chosen": f"Answer: {2 * a}", "rejected": f"Answer: {2 * a + 1}"}) + "\n"
            for a in range(10, 18)
        )
    )
    path = {"dpo": pairs, "sdft": ROWS / "train.jsonl"}.get(kind, ROWS / "tasks_train.jsonl")
    result = train(config(tinker_url, kind, path, max_steps=2, **params), tmp_path / "run")
    assert {"dpo": "rewards/margins", "sdft": "kl/teacher"}.get(kind, "reward/mean") in result.metrics
