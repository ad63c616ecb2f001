"""The starter's sums: train and held out never meet, and grading reads the last integer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.errors import DataError
from recipes.starter.tasks import ROWS, Sum, check_disjoint, draw_questions, draw_rows, draw_tasks, grade, sums_of, write_rows


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_splits_share_no_sum_and_so_no_question() -> None:
    assert not set(sums_of("train")) & set(sums_of("held_out"))
    train = {task.messages[0]["content"] for task in draw_tasks("train", 300)}
    rows = {row["messages"][0]["content"] for row in draw_rows(2000)}
    held_out = {task.messages[0]["content"] for task in draw_tasks("held_out", 300)}
    assert len(held_out) == 300
    assert not held_out & (train | rows)


def test_a_question_on_both_sides_is_named() -> None:
    with pytest.raises(DataError, match="What is 1 "):
        check_disjoint(["a", "What is 1 + 1?"], ["What is 1 + 1?", "b"])


def test_every_sum_carries_or_borrows() -> None:
    for sums in (sums_of("train"), sums_of("held_out")):
        for problem in sums:
            ones = (problem.left % 10, problem.right % 10)
            assert sum(ones) >= 10 if problem.operator == "+" else ones[0] < ones[1] and problem.answer > 0


@pytest.mark.parametrize(
    ("problem", "worked", "slip"),
    [
        (Sum("+", 47, 38), "7 + 8 = 15, carry 1. 4 + 3 + 1 = 8. Answer: 85", 75),
        (Sum("-", 52, 38), "12 - 8 = 4, borrow 1. 5 - 3 - 1 = 1. Answer: 14", 24),
        (Sum("+", 95, 17), "5 + 7 = 12, carry 1. 9 + 1 + 1 = 11. Answer: 112", 102),
    ],
)
def test_the_worked_answer_is_right_and_the_slip_forgets_the_carry(problem: Sum, worked: str, slip: int) -> None:
    assert problem.worked() == worked
    assert problem.slip == slip
    assert grade(problem.worked(), problem.answer) == 1.0
    assert grade(problem.quick(problem.slip), problem.answer) == 0.0


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("Answer: 85", 1.0),
        ("85", 1.0),
        ("85 or 75", 0.0),
        ("75, no: 85.", 1.0),
        ("", 0.0),
        ("none", 0.0),
        ("-85", 0.0),
        ("185", 0.0),
    ],
)
def test_only_the_last_integer_counts(reply: str, reward: float) -> None:
    assert grade(reply, 85) == reward


def test_the_files_shipped_are_what_the_generator_writes(tmp_path: Path) -> None:
    write_rows(tmp_path)
    for name in ("train.jsonl", "tasks_train.jsonl", "tasks_held_out.jsonl"):
        assert (ROWS / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8")
    assert len(read(ROWS / "train.jsonl")) == 1600
    assert [task.task_id for task in draw_tasks("held_out")] == [row["task_id"] for row in read(ROWS / "tasks_held_out.jsonl")]


def test_more_questions_than_there_are_sums_is_refused() -> None:
    with pytest.raises(ValueError, match="held_out has"):
        draw_questions("held_out", 5000, seed=0)
