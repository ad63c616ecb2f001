"""A failing callback is recorded and passed over; early stopping; the file of metrics."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.callbacks import EarlyStopping, MetricsFile, ToLogStore, read_metrics
from recipes.errors import CheckpointError, ConfigError
from recipes.protocols import Callback
from recipes.stores import metrics_from_json
from recipes.types import LoopState, Metrics, RunResult, TrainingBatch
from tests.recipes.runs_under_test import Witness, config, run


class Broken(Callback):
    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        raise RuntimeError("disk full")

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        raise RuntimeError("cannot even listen")

    def on_train_end(self, state: LoopState, result: RunResult) -> None:
        raise RuntimeError("nor end")


def test_a_failing_callback_is_recorded_once_per_hook_and_training_goes_on(tmp_path: Path) -> None:
    witness = Witness()
    result = run(config("mock_sft", max_steps=5), tmp_path, Broken(), witness)
    assert (result.status, result.steps) == ("completed", 5)
    assert list(witness.steps) == [1, 2, 3, 4, 5]
    told = [message for level, message in witness.events if "Broken" in message]
    assert told[0] == "Broken.on_step_end failed at step 1 and was passed over: RuntimeError: disk full"
    assert "Broken.on_step_end failed 5 times in this run." in told
    assert sum("on_step_end failed at" in message for message in told) == 1


def stops_at(values: list[float], **params: Any) -> int | None:
    """The number of values after which the run ends."""
    callback = EarlyStopping(metric="eval/x", **params)
    state = LoopState("7", 100, Path())
    for number, value in enumerate(values, 1):
        callback.on_eval(state, number, "x", {"eval/x": value})
        if state.stop_requested != "none":
            return number
    return None


@pytest.mark.parametrize(
    ("values", "params", "expected"),
    [
        ([3, 2, 2.5, 2.4, 2.3], {"patience": 3}, 5),
        ([3, 2, 2.5, 1.9, 2.3, 2.0], {"patience": 3}, None),
        ([0.1, 0.2, 0.2, 0.2], {"patience": 2, "mode": "max"}, 4),
        ([3, 2.95, 2.9, 2.85], {"patience": 3, "min_delta": 0.5}, 4),
        ([3, float("nan"), float("nan")], {"patience": 2}, 3),
        ([float("nan"), 3, 2, 1], {"patience": 3}, None),
    ],
)
def test_early_stopping_waits_for_patience_values_without_improvement(
    values: list[float], params: dict[str, Any], expected: int | None
) -> None:
    assert stops_at(values, **params) == expected


def test_early_stopping_ends_a_run_as_completed_with_a_final_checkpoint(tmp_path: Path) -> None:
    choice = {"kind": "early_stopping", "params": {"metric": "optim/lr", "patience": 2}}
    witness = Witness()
    result = run(config("mock_sft", max_steps=10, save_every=3, callbacks=[choice]), tmp_path, witness)
    assert (result.status, result.steps, result.num_steps) == ("completed", 3, 10)
    assert witness.checkpoints[-1].name == "final"
    assert any("Ended early" in message for _, message in witness.events)


def test_early_stopping_remembers_across_a_resume(tmp_path: Path) -> None:
    choice = {"kind": "early_stopping", "params": {"metric": "optim/lr", "patience": 5}}
    settings = config("mock_sft", max_steps=20, callbacks=[choice])
    run(settings, tmp_path, Witness(stop_after=4))
    assert run(settings, tmp_path, resume=True).steps == 6


def test_a_stop_that_somebody_asks_for_wins_over_an_early_end() -> None:
    state = LoopState("7", 10, Path())
    state.finish_early()
    state.request_stop()
    assert state.stop_requested == "after_step"
    state.finish_early()
    state.request_stop()
    assert state.stop_requested == "now"


@pytest.mark.parametrize("params", [{"patience": 0}, {"mode": "lowest"}, {"metrik": "x"}])
def test_wrong_settings_of_early_stopping_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="early_stopping"):
        EarlyStopping(**params)


def test_a_wrong_callback_in_the_config_fails_the_run_with_a_sentence(tmp_path: Path) -> None:
    witness = Witness()
    result = run(config("mock_sft", callbacks=[{"kind": "no_such_callback"}]), tmp_path, witness)
    assert result.status == "failed" and "no_such_callback" in (result.error or "")
    assert witness.result == result


def test_a_line_of_metrics_changed_by_hand_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "metrics": {}}\noops\n{"step": 2, "metrics": {}}\n')
    with pytest.raises(CheckpointError, match="Line 2"):
        list(read_metrics(path))
    assert list(read_metrics(tmp_path / "absent.jsonl")) == []


def test_a_new_run_begins_a_new_file_of_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 9, "metrics": {}}\n')
    MetricsFile(path).on_train_start(LoopState("7", 10, tmp_path))
    assert path.read_text() == ""


def test_a_log_store_gets_every_row_and_is_closed() -> None:
    class Store:
        def __init__(self) -> None:
            self.rows: list[tuple[int, Metrics]] = []
            self.closed = False

        def log_metrics(self, metrics: Metrics, step: int) -> None:
            self.rows.append((step, metrics))

        def close(self) -> None:
            self.closed = True

    store, state = Store(), LoopState("7", 1, Path())
    callback = ToLogStore(store)
    callback.on_step_end(state, 1, None, {"train/loss": 1.0})
    callback.on_eval(state, 1, "x", {"eval/x": 2.0})
    callback.on_train_end(state, RunResult("7", "completed"))
    assert store.rows == [(1, {"train/loss": 1.0}), (1, {"eval/x": 2.0})] and store.closed


def test_a_line_that_a_full_disk_tore_is_written_to_its_end_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [20, 0]

    class Disk(FileIO):
        def write(self, data: Any, /) -> int:
            if room and room[0] == 0:
                room.pop()
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[: room.pop(0)] if room else data)

    monkeypatch.setattr("recipes.callbacks.FileIO", Disk)
    path, state = tmp_path / "metrics.jsonl", LoopState("7", 10, tmp_path)
    file = MetricsFile(path)
    with pytest.raises(OSError, match="No space"):
        file.on_step_end(state, 1, None, {"train/loss": 1.0})
    assert len(path.read_bytes()) == 20 and list(read_metrics(path)) == []
    file.on_step_end(state, 2, None, {"train/loss": 2.0})
    file.on_train_end(state, RunResult("7", "completed"))
    assert [(row["step"], row["metrics"]["train/loss"]) for row in read_metrics(path)] == [(1, 1.0), (2, 2.0)]


def test_a_line_of_metrics_keeps_what_the_fast_encoder_refuses_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    path, state = tmp_path / "metrics.jsonl", LoopState("7", 10, tmp_path)
    file = MetricsFile(path)
    reported: list[Metrics] = [
        {"reward/größe\u2028zwei": float("-inf"), "reward/numpy": np.float64(0.25)},
        {"reward/half \ud800": 0.5, "tokens/total": 2**70},
    ]
    for step, values in enumerate(reported, 1):
        file.on_step_end(state, step, None, values)
        written = list(read_metrics(path))  # at once, by whoever reads
        assert [row["step"] for row in written] == list(range(1, step + 1))
        assert metrics_from_json(written[-1]["metrics"]) == values
        assert datetime.now(UTC) - datetime.fromisoformat(written[-1]["at"]) < timedelta(hours=1)
    path.write_bytes(path.read_bytes() + '{"step": 3, "metrics": {"größe'.encode()[:-2])
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
