"""Which rows are in which batch, what they weigh, and what is said about rows that cannot be trained."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.algorithms.sft import SFT, SFTConfig
from recipes.backends.mock import MockBackend
from recipes.errors import ConfigError, DataError
from recipes.types import Row, RunContext, TrainingBatch
from tests.recipes.runs_under_test import Witness, chats, config, run


async def _batches(algorithm: SFT, tmp_path: Path, rows: list[Row], count: int) -> list[TrainingBatch]:
    backend = MockBackend(output_dir=tmp_path)
    context = RunContext("7", tmp_path, config(), None, extras={"train_rows": rows})  # type: ignore[arg-type]
    await algorithm.setup(context, backend)
    batches = [await algorithm.build_batch(step_index) for step_index in range(count)]
    await backend.close()
    return batches


def batches(tmp_path: Path, count: int, rows: list[Row] | None = None, **params: Any) -> list[TrainingBatch]:
    return asyncio.run(_batches(SFT(**params), tmp_path, chats() if rows is None else rows, count))


def contents(found: list[TrainingBatch]) -> list[bytes]:
    return [datum.model_input.tobytes() for batch in found for datum in batch.data]


def test_every_row_is_in_every_epoch_once_and_the_last_partial_batch_trains(tmp_path: Path) -> None:
    found = batches(tmp_path, 6, batch_size=4)
    assert [len(batch.data) for batch in found] == [4, 4, 2, 4, 4, 2]
    first, second = contents(found[:3]), contents(found[3:])
    assert sorted(first) == sorted(second) and len(set(first)) == 10
    assert first != second, "each epoch has an order of its own"


def test_the_order_follows_from_the_seed(tmp_path: Path) -> None:
    assert contents(batches(tmp_path, 3, seed=1)) == contents(batches(tmp_path, 3, seed=1))
    assert contents(batches(tmp_path, 3, seed=1)) != contents(batches(tmp_path, 3, seed=2))


def test_fewer_rows_than_a_batch_are_one_partial_batch(tmp_path: Path) -> None:
    assert [len(batch.data) for batch in batches(tmp_path, 2, batch_size=64)] == [10, 10]


def test_a_batch_larger_than_the_data_is_said(tmp_path: Path) -> None:
    witness = Witness()
    result = run(config(batch_size=64, num_epochs=2), tmp_path, witness)
    assert result.num_steps == 2
    told = [message for level, message in witness.events if level == "warning"]
    assert told == ["The batch of 64 rows is larger than the data: every step learns from all 10 rows, one step per epoch."]


def test_the_weights_of_a_batch_sum_to_one_whatever_its_size(tmp_path: Path) -> None:
    for batch in batches(tmp_path, 3, batch_size=4):
        assert sum(datum.loss_fn_inputs["weights"].sum() for datum in batch.data) == pytest.approx(1.0)
        assert len({float(w) for d in batch.data for w in d.loss_fn_inputs["weights"] if w}) == 1


def test_mean_and_sum_of_the_likelihood_are_both_reported_and_agree_with_the_loss(tmp_path: Path) -> None:
    witness = Witness()
    run(config(max_steps=1, batch_size=10), tmp_path, witness)
    row = witness.steps[1]
    assert row["train/mean_nll"] == pytest.approx(row["train/loss"], rel=1e-5)
    assert row["train/loss_sum"] == pytest.approx(row["train/mean_nll"] * row["tokens/trained"])
    assert row["train/mean_nll"] == pytest.approx(np.log(259), rel=0.01), "an untrained model knows nothing"


def test_training_lowers_the_loss_on_rows_that_were_held_out(tmp_path: Path) -> None:
    witness = Witness()
    result = run(config(num_epochs=10, validation_fraction=0.2), tmp_path, witness)
    assert len(witness.rows) == 8
    assert list(witness.evals) == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20], "once per epoch when nothing else is asked for"
    assert witness.evals[20]["eval/validation_nll"] < 0.8 * witness.evals[2]["eval/validation_nll"]
    assert result.metrics["eval/validation_nll"] == witness.evals[20]["eval/validation_nll"]


def test_validation_rows_that_are_given_leave_the_training_rows_whole(tmp_path: Path) -> None:
    witness = Witness()
    run(config(validation_fraction=0.5, max_steps=4, validation_every=3), tmp_path, witness, validation_rows=chats(3))
    assert len(witness.rows) == 10
    assert list(witness.evals) == [3, 4]


def test_rows_cut_until_nothing_is_trained_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = chats(3)
    rows[1]["messages"][0]["content"] = "long " * 50
    witness = Witness()
    result = run(config(max_seq_len=100), tmp_path, witness, rows=rows)
    told = [message for level, message in witness.events if level == "warning"]
    assert any("1 of 3 training rows are longer than max_seq_len 100" in message for message in told)
    assert any("1 of 3 training rows have no trained token left" in message for message in told)
    assert result.status == "completed" and result.num_steps == 1


def test_no_row_left_is_refused_with_what_to_do(tmp_path: Path) -> None:
    result = run(config(max_seq_len=5), tmp_path)
    assert result.status == "failed" and "Raise max_seq_len" in (result.error or "")
    assert "no rows to train on" in (run(config(), tmp_path, rows=[]).error or "")


def test_a_conversation_that_cannot_be_one_sequence_is_several_in_the_same_batch(tmp_path: Path, tokenizer_with: Any) -> None:
    from tests.recipes.conftest import THINKING

    turns = chats(1)[0]["messages"]
    backend = MockBackend(output_dir=tmp_path)
    backend.get_tokenizer = lambda: tokenizer_with(THINKING)  # type: ignore[method-assign]
    algorithm = SFT(batch_size=2)

    async def build() -> TrainingBatch:
        rows = [{"messages": turns * 3}, {"messages": turns}]
        await algorithm.setup(RunContext("7", tmp_path, config(), None, extras={"train_rows": rows}), backend)  # type: ignore[arg-type]
        batch = await algorithm.build_batch(0)
        await backend.close()
        return batch

    assert len(asyncio.run(build()).data) == 4


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "Row 3, messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, r"messages\[0\].role"),
        ({"text": "Hi"}, "Row 3"),
    ],
)
def test_a_row_that_is_none_fails_the_run_before_it_trains(tmp_path: Path, row: Row, named: str) -> None:
    with pytest.raises(DataError, match=named) as refusal:
        batches(tmp_path, 1, rows=[*chats(2), row])
    assert refusal.value.line == 3


def test_settings_out_of_range_are_refused_with_their_path() -> None:
    with pytest.raises(ConfigError) as refusal:
        SFT(learning_rate=float("nan"))
    assert refusal.value.path == ("algorithm", "params", "learning_rate")
    with pytest.raises(ConfigError, match="role_colon"):
        SFT(renderer_name="of_my_own")
    with pytest.raises(ConfigError, match="max_seq_length"):
        SFT(max_seq_length=5)


def test_every_setting_has_a_sentence() -> None:
    assert all(field.description for field in SFTConfig.model_fields.values())


def test_a_model_that_reads_less_than_max_seq_len_sets_the_limit(tmp_path: Path) -> None:
    backend = MockBackend(output_dir=tmp_path)
    backend.get_tokenizer().model_max_length = 80  # type: ignore[attr-defined]
    rows = chats(2)
    rows[0]["messages"][1]["content"] = "It is a long answer. " * 20
    witness = Witness()
    result = run(config(max_seq_len=2048), tmp_path, witness, rows=rows, backend=backend)
    asyncio.run(backend.close())
    assert result.status == "completed"
    assert ("info", "The model reads 80 tokens at most, less than max_seq_len 2,048.") in witness.events
    assert any("longer than max_seq_len 80" in message for _, message in witness.events)
    assert witness.steps[1]["tokens/total"] < 160
