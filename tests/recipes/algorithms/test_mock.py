"""The pretended curve is the documented formula, in the real loop, without any backend being opened."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from recipes.registry import backends
from tests.recipes.runs_under_test import Witness, config, run


def test_the_curve_is_the_formula_and_the_configured_backend_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(backends.get("local"), "open", lambda *args, **kwargs: opened.append(args))
    witness = Witness()
    result = run(config("mock_sft", backend="local", max_steps=30), tmp_path, witness, rows=[])
    expected = {s: 2 * math.exp(-3 * s / 30) + 0.05 * math.sin(0.3 * s) for s in range(1, 31)}
    assert {step: row["train/mean_nll"] for step, row in witness.steps.items()} == pytest.approx(expected)
    assert result.status == "completed" and opened == []


def test_a_stopped_curve_goes_on_where_it_was(tmp_path: Path) -> None:
    first, second = Witness(stop_after=10), Witness()
    run(config("mock_sft", max_steps=30), tmp_path / "a", first)
    run(config("mock_sft", max_steps=30), tmp_path / "a", second, resume=True)
    whole = Witness()
    run(config("mock_sft", max_steps=30), tmp_path / "b", whole)
    assert first.steps | second.steps == whole.steps


def test_epochs_follow_the_rows(tmp_path: Path) -> None:
    assert run(config("mock_sft", num_epochs=2), tmp_path).num_steps == 6
