"""Estimates: exact where counting is enough, a range where it is not, and nothing where nothing is known."""

from __future__ import annotations

import json

import pytest

from recipes.config import RunConfig
from recipes.errors import ConfigError
from recipes.estimate import GPU, Measured, TokenSample, count_parameters, estimate, processor
from recipes.prices import is_billed
from recipes.registry import algorithms, backends_for, uses_backend


def config(kind: str = "sft", *, backend: str = "mock", **params: object) -> RunConfig:
    return RunConfig.model_validate(
        {"data": {"path": "rows.jsonl"}, "algorithm": {"kind": kind, "params": params}, "backend": {"kind": backend}}
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
        config(batch_size=10), num_rows=1000, sample=sample, num_parameters=10**8, hardware=GPU, measured=Measured(1000)
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


def test_rl_samples_reads_and_trains_on_every_attempt():
    tasks = TokenSample([20] * 4, [0] * 4)
    found = estimate(config("rl", batch_size=2, num_samples=8, max_tokens=100), num_rows=4, sample=tasks)
    assert found.sampled_tokens == (4 * 8, 4 * 8 * 100) == found.trained_tokens
    assert found.prefill_tokens == (4 * 20, 4 * 8 * 20), "a group may share its prompt, or not"
    assert found.tokens == (0, 4 * 8 * 120), "groups without gradient are dropped"
    assert found.seconds is None and "sampling" in " ".join(found.notes)
    kept = estimate(
        config("rl", batch_size=2, num_samples=8, max_tokens=100, drop_constant_reward=False), num_rows=4, sample=tasks
    )
    assert kept.tokens == (4 * 8 * 21, 4 * 8 * 120)


def test_an_earlier_run_says_how_long_replies_are_and_what_they_take():
    tasks = TokenSample([20] * 4, [0] * 4)
    earlier = Measured(seconds_per_attempt=0.5, reply_tokens=50)
    found = estimate(config("rl", batch_size=2, num_samples=8), num_rows=4, sample=tasks, measured=earlier)
    assert found.sampled_tokens == pytest.approx((32 * 50 / 1.3, 32 * 50 * 1.3))
    assert found.seconds is not None and found.seconds.low < 32 * 0.5 < found.seconds.high < 32
    assert "50 tokens on average" in " ".join(found.notes)


def test_turns_with_a_calculator_read_everything_again_and_a_game_is_not_guessed():
    tasks = TokenSample([20] * 4, [0] * 4)
    params = {"batch_size": 4, "num_samples": 2, "max_tokens": 10}
    found = estimate(config("rl", environment="calculator", max_turns=3, **params), num_rows=4, sample=tasks)
    assert found.sampled_tokens == (8, 4 * 2 * 30) and found.prefill_tokens == (80, 4 * 2 * (3 * 20 + 2 * 30))
    game = estimate(config("rl", environment="nim", **params), num_rows=4, sample=tasks)
    assert game.steps == 1 and game.tokens is None and "not known for this algorithm" in " ".join(game.notes)


def test_sdft_samples_once_per_row_and_its_teacher_reads_the_row_besides():
    rows = TokenSample([30] * 4, [10] * 4)
    found = estimate(config("sdft", batch_size=2, max_tokens=40, num_epochs=2), num_rows=4, sample=rows)
    assert found.sampled_tokens == (8, 8 * 40)
    assert found.tokens == (8 * 21, 8 * 60) and found.prefill_tokens == (8 * 51, 8 * 90)


def test_dpo_reads_its_pairs_once_before_and_once_more_in_each_step():
    pairs = TokenSample([30] * 4, [10] * 4)
    found = estimate(config("dpo", batch_size=2, num_epochs=3), num_rows=4, sample=pairs)
    assert found.tokens == (12 * 30, 12 * 30) and found.prefill_tokens == (12 * 30 + 4 * 30, 12 * 30 + 4 * 30)


def test_trls_rl_trains_on_every_attempt():
    tasks = TokenSample([20] * 4, [0] * 4)
    found = estimate(config("local_rl", backend="local", batch_size=2, num_samples=8, max_tokens=100), num_rows=4, sample=tasks)
    assert found.tokens == (4 * 8 * 21, 4 * 8 * 120) and found.sampled_tokens == (4 * 8, 4 * 8 * 100)


@pytest.mark.parametrize(("kind", "backend"), [(kind, backend) for kind in algorithms.kinds() for backend in backends_for(kind)])
def test_every_pair_that_trains_has_an_estimate_or_says_what_is_not_known(kind, backend):
    values = config(kind, backend=backend).model_dump() | {"model": {"name": "Qwen/Qwen3-8B"}}
    found = estimate(RunConfig.model_validate(values), num_rows=100, sample=TokenSample([50] * 100, [20] * 100))
    notes = " ".join(found.notes)
    assert found.steps and (found.tokens is not None or "not known" in notes)
    assert found.seconds is not None or "No time is given" in notes or found.tokens is None
    assert (found.dollars is not None) + ("price is not known" in notes) == (
        is_billed(backend) and uses_backend(algorithms.get(kind))
    )


def test_tokens_that_were_guessed_are_a_range_and_said_to_be():
    guessed = TokenSample([100] * 4, [50] * 4, spread=2.0)
    found = estimate(config(batch_size=2), num_rows=4, sample=guessed)
    assert found.tokens == (200, 800) and found.trained_tokens == (100, 400)
    assert "guessed from the length" in " ".join(found.notes)


def test_nothing_is_said_of_the_time_on_somebody_elses_machine():
    found = estimate(config(backend="tinker"), num_rows=10, sample=TokenSample([5] * 10, [5] * 10), num_parameters=10**8)
    assert found.seconds is None and "not computed on this machine" in " ".join(found.notes)


@pytest.mark.parametrize("sample", [None, TokenSample([80] * 3, [40] * 3)])
def test_a_machine_that_is_billed_by_the_hour_is_priced_so_and_names_one_where_none_is_named(sample):
    chosen = {"tokenizer": "starter", "trainer": "dedicated", "accept_billing": True}
    values = {
        "data": {"path": "rows.jsonl"},
        "model": {"name": "accounts/fireworks/models/qwen3-8b"},
        "backend": {"kind": "fireworks", "params": chosen},
    }
    found = estimate(RunConfig.model_validate(values), num_rows=3, sample=sample)
    said = " ".join(found.notes)
    assert found.dollars is None and "$8.00 for NVIDIA_H200_141GB, as of 09 September 2026" in said
    assert "name one, such as accounts/fireworks/trainingShapes/qwen3-8b-256k-h200-lora (as of 19 August 2026" in said
    assert "price is not known" not in said


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
