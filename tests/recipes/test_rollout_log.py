"""rollouts.jsonl: whole groups, bounded, found again by step, and void beyond the step that a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes import rollout_log
from recipes.rollout_log import MAX_TEXT, ROLLOUTS_FILE, RolloutsFile, read_step
from recipes.types import LoopState, Trajectory


def state(folder: Path, start_step: int = 0) -> LoopState:
    return LoopState("7", 100, folder, start_step=start_step)


def rollouts(num_groups: int = 3, size: int = 2, text: str = "hello", **more: Any) -> list[Trajectory]:
    return [
        Trajectory(
            f"t{group}",
            [],
            float(attempt),
            messages=[{"role": "assistant", "content": text}],
            group=group,
            attempt=attempt,
            advantage=attempt - 0.5,
            **more,
        )
        for group in range(num_groups)
        for attempt in range(size)
    ]


def write(folder: Path, steps: list[int], most: int = 32) -> Path:
    callback = RolloutsFile(most)
    callback.on_train_start(state(folder))
    for step in steps:
        callback.on_rollout(state(folder), step, rollouts(text=f"step {step}" + "." * (step % 7 * 1000)))
    return folder / ROLLOUTS_FILE


def test_a_step_is_found_again_with_its_neighbours(tmp_path: Path) -> None:
    steps = [1, 2, 3, 7, 8, 9, 10, 50, 99, 100, 101, 1000]
    path = write(tmp_path, steps)
    for index, step in enumerate(steps):
        found = read_step(path, step)
        assert found is not None and found.step == step
        assert found.groups[0]["rollouts"][0]["messages"][0]["content"].startswith(f"step {step}")
        assert found.previous == (steps[index - 1] if index else None)
        assert found.following == (steps[index + 1] if index + 1 < len(steps) else None)


@pytest.mark.parametrize(("asked", "found"), [(None, 9), (5, 4), (0, 2), (-3, 2), (10**12, 9), (4, 4)])
def test_a_step_without_rollouts_gives_the_nearest_before_it(tmp_path: Path, asked: int | None, found: int) -> None:
    step = read_step(write(tmp_path, [2, 4, 9]), asked)
    assert step is not None and step.step == found


def test_no_file_and_an_empty_file_hold_no_step(tmp_path: Path) -> None:
    assert read_step(tmp_path / ROLLOUTS_FILE) is None
    (tmp_path / ROLLOUTS_FILE).touch()
    assert read_step(tmp_path / ROLLOUTS_FILE) is None


def test_a_line_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    path = write(tmp_path, [1, 2])
    path.write_bytes(path.read_bytes() + b'{"step": 3, "num_gr')
    found = read_step(path)
    assert found is not None and (found.step, found.following) == (2, None)
    path.write_bytes(b'{"step": 1, "num')
    assert read_step(path) is None


def test_whole_groups_are_written_up_to_the_limit_and_what_was_there_is_counted(tmp_path: Path) -> None:
    callback = RolloutsFile(5)
    callback.on_rollout(state(tmp_path), 1, rollouts(num_groups=4, size=2))
    row = json.loads((tmp_path / ROLLOUTS_FILE).read_text())
    assert [group["task_id"] for group in row["groups"]] == ["t0", "t1"]
    assert (row["num_groups"], row["num_rollouts"]) == (4, 8)
    assert row["groups"][0]["rollouts"][1] == {
        "attempt": 1,
        "reward": 1.0,
        "advantage": 0.5,
        "is_correct": None,
        "stop_reason": None,
        "num_tokens": 0,
        "metrics": {},
        "messages": [{"role": "assistant", "content": "hello"}],
    }


def test_one_group_is_written_even_if_it_is_larger_than_the_limit(tmp_path: Path) -> None:
    RolloutsFile(1).on_rollout(state(tmp_path), 1, rollouts(size=9))
    found = read_step(tmp_path / ROLLOUTS_FILE)
    assert found is not None and [len(group["rollouts"]) for group in found.groups] == [9]


def test_none_wanted_writes_no_file(tmp_path: Path) -> None:
    assert not write(tmp_path, [1, 2], most=0).exists()


def test_a_long_text_is_cut_and_says_so_and_a_long_line_holds_fewer_groups(tmp_path: Path) -> None:
    RolloutsFile(1000).on_rollout(state(tmp_path), 1, rollouts(num_groups=100, size=4, text="é" * (MAX_TEXT + 1500)))
    path = tmp_path / ROLLOUTS_FILE
    found = read_step(path)
    assert found is not None and found.num_groups == 100 and 1 <= len(found.groups) < 100
    assert path.stat().st_size < 1.3 * rollout_log.MAX_LINE_BYTES
    assert found.groups[0]["rollouts"][0]["messages"][0]["content"].endswith("… (1,500 more characters)")


def test_what_a_model_says_cannot_break_the_line(tmp_path: Path) -> None:
    nasty = 'a\nb"}\u2028\x00</script>\ud800'
    RolloutsFile(9).on_rollout(state(tmp_path), 1, rollouts(text=nasty, metrics={"x": float("nan")}))
    found = read_step(tmp_path / ROLLOUTS_FILE)
    assert found is not None and found.groups[0]["rollouts"][0]["messages"][0]["content"] == nasty
    assert found.groups[0]["rollouts"][0]["metrics"] == {"x": "NaN"}


@pytest.mark.parametrize(("start_step", "kept"), [(0, []), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4]), (9, [1, 2, 4, 5])])
def test_a_run_that_goes_on_forgets_what_lies_beyond(tmp_path: Path, start_step: int, kept: list[int]) -> None:
    path = write(tmp_path, [1, 2, 4, 5])
    path.write_bytes(path.read_bytes() + b'{"step": 6, "torn')
    RolloutsFile(32).on_train_start(state(tmp_path, start_step))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == kept


def test_a_large_file_grows_slower_and_then_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = len(rollout_log._line(1, rollouts(), 32))
    monkeypatch.setattr(rollout_log, "MAX_FILE_BYTES", 3 * one)
    callback = RolloutsFile(32)
    for step in range(1, 200):
        callback.on_rollout(state(tmp_path), step, rollouts())
    steps = [json.loads(line)["step"] for line in (tmp_path / ROLLOUTS_FILE).read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 10, 20]
