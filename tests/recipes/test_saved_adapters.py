"""A run that cannot go on with the adapter it is to begin from is refused by its config, before anything is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.config import RunConfig
from recipes.cycle_config import CycleConfig
from recipes.errors import ConfigError
from tests.recipes.test_cycle_config import SIDES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of rank 4 and alpha 8."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    return tmp_path


def config(folder: Path, kind: str, backend: str = "local", ratio: float | None = None, **params: Any) -> RunConfig:
    return RunConfig.from_values(
        {
            "data": {"path": "rows.jsonl"},
            "model": {"init_from_checkpoint": str(folder)},
            "algorithm": {"kind": kind, "params": params},
            "backend": {"kind": backend, "params": {} if ratio is None else {"lora_alpha_ratio": ratio}},
        }
    )


def test_an_adapter_of_the_same_shape_and_whole_weights_are_taken(folder: Path, tmp_path: Path) -> None:
    for kind in ("sft", "local_sft"):
        config(folder, kind, lora_rank=4).check_weights()
    config(folder, "sft", backend="mock", lora_rank=16).check_weights()  # writes another format
    (folder / "adapter_config.json").unlink()
    config(folder, "sft", lora_rank=16).check_weights()


@pytest.mark.parametrize(
    ("values", "words", "place"),
    [
        ({"kind": "sft", "lora_rank": 16}, "rank 4 and alpha 8; this run asks for rank 16", ("algorithm", "lora_rank")),
        ({"kind": "local_sft", "lora_rank": 16}, "Set lora_rank to 4", ("algorithm", "lora_rank")),
        ({"kind": "sft", "lora_rank": 0}, "lora_rank 0 cannot take it over", ("algorithm", "lora_rank")),
        ({"kind": "sft", "lora_rank": 4, "ratio": 1.0}, "lora_alpha_ratio to 2", ("backend", "lora_alpha_ratio")),
        (
            {"kind": "local_sft", "lora_rank": 4, "lora_alpha_ratio": 1.0},
            "lora_alpha_ratio to 2",
            ("algorithm", "lora_alpha_ratio"),
        ),
    ],
)
def test_another_rank_or_alpha_is_refused_at_its_setting(
    folder: Path, values: dict[str, Any], words: str, place: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        config(folder, **values).check_weights()
    assert words in str(refused.value) and refused.value.path == (place[0], "params", place[1])


@pytest.mark.parametrize(
    "text", ["", "[]", '{"r": 0, "lora_alpha": 8}', '{"r": 4}', '{"r": "four", "lora_alpha": 8}', '{"r": 1e999, "lora_alpha": 8}']
)
def test_one_that_cannot_be_read_is_said_of_the_checkpoint(folder: Path, text: str) -> None:
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"adapter_config\.json") as refused:
        config(folder, "sft", lora_rank=4).check_weights()
    assert refused.value.path == ("model", "init_from_checkpoint")


def test_a_name_that_no_file_can_have_is_said_of_the_checkpoint() -> None:
    with pytest.raises(ConfigError, match=r"adapter_config\.json cannot be read") as refused:
        config(Path("a" * 300), "sft", lora_rank=4).check_weights()
    assert refused.value.path == ("model", "init_from_checkpoint")


def test_what_the_refusal_says_to_set_is_taken(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"r": 24, "lora_alpha": 16}))
    with pytest.raises(ConfigError, match=r"lora_alpha_ratio to 0\.666667\."):
        config(folder, "sft", lora_rank=24).check_weights()
    config(folder, "sft", lora_rank=24, ratio=0.666667).check_weights()


def test_a_cycle_says_it_in_its_own_words(folder: Path) -> None:
    values = {**SIDES, "model": {"checkpoint": str(folder)}, "training": {"kind": "sft", "params": {"lora_rank": 2}}}
    with pytest.raises(ConfigError, match="Set lora_rank to 4") as refused:
        CycleConfig.from_values(values).check_weights()
    assert refused.value.path == ("training", "params", "lora_rank")
    (folder / "adapter_config.json").write_text("")
    with pytest.raises(ConfigError) as refused:
        CycleConfig.from_values(values).check_weights()
    assert refused.value.path == ("model", "checkpoint")
