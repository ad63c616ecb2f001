"""Recommended starting values are data, and every one of them is accepted by the algorithm it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recipes import presets
from recipes.registry import algorithms

ROWS = yaml.safe_load(Path(presets.__file__).with_name("presets.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['algorithms'][0]}")
def test_every_preset_is_accepted_by_its_algorithm_and_says_why(row):
    assert row["why"].strip()
    for kind in row["algorithms"]:
        config = algorithms.get(kind).Config.model_validate(row["params"])
        assert config.learning_rate == row["params"]["learning_rate"]


def test_the_starter_model_has_its_own_values():
    starter, other = (presets.starting_values(name, "sft") for name in ("starter", "Qwen/Qwen3-0.6B"))
    assert starter["learning_rate"] > other["learning_rate"]
    assert starter["adam_beta1"] == other["adam_beta1"]  # not in the preset: the algorithm's default


def test_an_algorithm_nobody_has_advice_for_starts_at_its_defaults():
    assert presets.recommended("starter", "somebody_elses") == ({}, "")
