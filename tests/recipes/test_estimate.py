"""Estimates: exact where counting is enough, a range where it is not, and nothing where nothing is known."""

from __future__ import annotations

import json

import pytest

from recipes.config import RunConfig
from recipes.errors import ConfigError
from recipes.estimate import GPU, TokenSample, count_parameters, estimate, processor


def config(**params: object) -> RunConfig:
    return RunConfig.model_validate(
        {"data": {"path": "rows.jsonl"}, "algorithm": {"kind": "sft", "params": params}, "backend": {"kind": "mock"}}
    )


@pytest.mark.parametrize(
    ("params", "num_rows", "steps", "rows_seen"),
    [
        ({"batch_size": 10, "num_epochs": 1}, 100, 10, 100),
        ({"batch_size": 10, "num_epochs": 3}, 95, 30, 285),
        ({"batch_size": 32, "num_epochs": 2}, 5, 2, 10),
        ({"batch_size": 10, "num_epochs": 3, "max_steps": 4}, 100, 4, 40),
        ({"batch_size": 10, "max_steps": 25}, 95, 25, 240),
        ({"batch_size": 10}, 0, 1, 0),
    ],
)
def test_steps_and_rows_are_counted_exactly(params, num_rows, steps, rows_seen):
    found = estimate(config(**params), num_rows=num_rows)
    assert (found.steps, found.rows_seen) == (steps, rows_seen)


def test_tokens_are_exact_when_every_row_was_counted():
    found = estimate(config(batch_size=2, num_epochs=3), num_rows=3, sample=TokenSample([10, 20, 30], [5, 5, 5]))
    assert found.tokens == (180, 180)
    assert found.trained_tokens == (45, 45)


def test_a_sample_gives_a_range_around_its_mean():
    found = estimate(config(batch_size=10), num_rows=1000, sample=TokenSample([80, 100, 120, 100], [40] * 4))
    assert found.tokens is not None and found.tokens.low < 100_000 < found.tokens.high
    assert found.trained_tokens == (40_000, 40_000)


def test_a_measured_speed_wins_over_a_guess_and_is_narrower():
    sample = TokenSample([100] * 10, [50] * 10)
    guessed = estimate(config(batch_size=10), num_rows=1000, sample=sample, num_parameters=10**8, hardware=processor(2)).seconds
    measured = estimate(
        config(batch_size=10), num_rows=1000, sample=sample, num_parameters=10**8, hardware=GPU, measured_tokens_per_second=1000
    ).seconds
    assert guessed is not None and measured is not None
    assert measured.low < 100 < measured.high
    assert measured.high / measured.low < guessed.high / guessed.low


def test_no_time_is_invented_for_a_model_of_unknown_size():
    found = estimate(config(), num_rows=10, sample=TokenSample([5] * 10, [5] * 10), hardware=GPU)
    assert found.seconds is None
    assert "No time is given" in " ".join(found.notes)


def test_a_batch_larger_than_the_data_is_said():
    assert "larger than the data" in " ".join(estimate(config(batch_size=64), num_rows=5).notes)


def test_wrong_settings_are_an_error_and_not_an_estimate():
    with pytest.raises(ConfigError, match="batch_size"):
        estimate(config(batch_size=0), num_rows=5)


def safetensors(header: dict[str, object]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def test_parameters_are_counted_from_headers(tmp_path):
    entry = {"dtype": "F32", "data_offsets": [0, 0]}
    (tmp_path / "a.safetensors").write_bytes(safetensors({"w": {**entry, "shape": [3, 4]}, "__metadata__": {"format": "pt"}}))
    (tmp_path / "b.safetensors").write_bytes(safetensors({"v": {**entry, "shape": [5]}}))
    assert count_parameters(tmp_path) == 17


@pytest.mark.parametrize("content", [b"", b"not a header at all", (2**60).to_bytes(8, "little") + b"{}", safetensors({})[:-1]])
def test_a_broken_weights_file_counts_for_nothing(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert count_parameters(tmp_path) is None


def test_a_folder_without_weights_counts_for_nothing(tmp_path):
    assert count_parameters(tmp_path) is None
