"""Every document read again from its own YAML is the same, whatever is empty in it."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.config import Document, RunConfig
from recipes.cycle_config import CycleConfig
from recipes.eval_config import EvalConfig
from recipes.registry import algorithms, backends_for
from recipes.sweep_config import SweepConfig

RUN: dict[str, Any] = {"data": {"dataset": "rows@1", "split": None}}
CYCLE: dict[str, Any] = {side: {"benchmark": side} for side in ("learn", "judge")}
NEEDED = {"rl": {"verifier_name": "numeric"}, "fireworks_rft": {"evaluator": "sums"}}


@pytest.mark.parametrize("kind", algorithms.kinds())
def test_a_run_of_each_algorithm_with_all_its_settings_spelled_out(kind: str) -> None:
    params = algorithms.get(kind).Config(**NEEDED.get(kind, {})).model_dump(mode="json")
    values = RUN | {"algorithm": {"kind": kind, "params": params}, "backend": {"kind": backends_for(kind)[-1]}}
    config = RunConfig.from_values(values)
    assert RunConfig.from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("document", "values"),
    [
        (EvalConfig, {"model": {}, "data": {"path": "tasks.jsonl"}, "sampling": {"seed": None}}),
        (EvalConfig, {"model": {"checkpoint": "somewhere"}, "data": {"path": "tasks.jsonl"}, "max_tasks": None, "attempts": 1}),
        (CycleConfig, CYCLE | {"sampling": {"seed": None, "top_k": None}, "judge_attempts": None}),
        (RunConfig, RUN | {"algorithm": {"kind": "sft", "params": {"max_steps": None, "renderer_name": None}}}),
        (SweepConfig, RUN | {"matrix": {"axes": {"algorithm.params.max_steps": [None, 5]}, "seeds": [0]}}),
    ],
)
def test_what_is_empty_stays_empty(document: type[Document], values: dict[str, Any]) -> None:
    config = document.from_values(values)
    assert document.from_yaml(config.to_yaml()) == config


def test_what_is_empty_by_default_is_not_written() -> None:
    assert "null" not in RunConfig.from_values(RUN).to_yaml()
