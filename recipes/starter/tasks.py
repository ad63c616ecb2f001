"""The starter's tasks: two-digit additions with a carry and subtractions with a borrow, bare or told as a small story.

A Sum is the arithmetic, a Question its wording. Held-out sums are set apart before anything is drawn, so neither pretraining
nor the training rows ever hold one. `python -m recipes.starter.tasks` writes the files in `rows/`.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

from recipes.errors import DataError
from recipes.types import Row, Task

ROWS = Path(__file__).parent / "rows"
NUM_TRAIN_ROWS = 1600
NUM_TASKS = 200

Split = Literal["train", "held_out"]
_PARTITION_SEED = 20
_SEEDS: dict[Split, int] = {"train": 1, "held_out": 2}
_HELD_OUT_SHARE = 0.1

NAMES = ("Mia", "Ben", "Ada", "Tom", "Lena", "Omar", "Ivy", "Noah", "Zoe", "Max", "Rosa", "Sam")
THINGS = ("apples", "books", "coins", "shells", "cards", "pens", "stamps", "marbles", "eggs", "stones", "cups", "keys")
ADDITIONS = (
    "{name} has {left} {things} and gets {right} more. How many {things} does {name} have now?",
    "There are {left} {things} in a box. {name} puts in {right} more. How many {things} are in the box?",
    "{name} finds {left} {things} on Monday and {right} on Tuesday. How many {things} is that?",
    "One bag holds {left} {things}, another holds {right}. How many {things} do they hold together?",
)
SUBTRACTIONS = (
    "{name} has {left} {things} and gives away {right}. How many {things} are left?",
    "There are {left} {things} in a box. {name} takes out {right}. How many {things} are in the box?",
    "{name} had {left} {things} and lost {right} of them. How many {things} does {name} have now?",
    "One bag holds {left} {things}, another holds {right}. How many more {things} does the first bag hold?",
)
BARE = ("What is {left} {operator} {right}?", "{left} {operator} {right} = ?", "Work out {left} {operator} {right}.")

_INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True, order=True)
class Sum:
    """Two numbers from 10 to 99 whose ones carry (+) or borrow (-)."""

    operator: Literal["+", "-"]
    left: int
    right: int

    @property
    def answer(self) -> int:
        return self.left + self.right if self.operator == "+" else self.left - self.right

    @property
    def slip(self) -> int:
        """What one gets by forgetting the carry, or the borrow."""
        return self.answer - 10 if self.operator == "+" else self.answer + 10

    def worked(self) -> str:
        """The answer reached column by column."""
        left_tens, left_ones = divmod(self.left, 10)
        right_tens, right_ones = divmod(self.right, 10)
        if self.operator == "+":
            ones, tens = left_ones + right_ones, left_tens + right_tens + 1
            columns = f"{left_ones} + {right_ones} = {ones}, carry 1. {left_tens} + {right_tens} + 1 = {tens}."
        else:
            ones, tens = left_ones + 10 - right_ones, left_tens - right_tens - 1
            columns = f"{left_ones + 10} - {right_ones} = {ones}, borrow 1. {left_tens} - {right_tens} - 1 = {tens}."
        return f"{columns} Answer: {self.answer}"

    def quick(self, value: int) -> str:
        """`value` given at once."""
        return f"Answer: {value}"


@dataclass(frozen=True, slots=True)
class Question:
    sum: Sum
    text: str


def grade(reply: str, answer: int) -> float:
    """1.0 when the last integer in the reply is the answer, else 0.0."""
    integers = _INTEGER.findall(reply)
    return float(bool(integers) and int(integers[-1]) == answer)


@cache
def sums_of(split: Split) -> tuple[Sum, ...]:
    """Every sum of a split; the two splits share none."""
    numbers = range(10, 100)
    sums = [Sum("+", a, b) for a, b in product(numbers, numbers) if a % 10 + b % 10 >= 10]
    sums += [Sum("-", a, b) for a, b in product(numbers, numbers) if a > b and a % 10 < b % 10]
    random.Random(_PARTITION_SEED).shuffle(sums)
    cut = round(len(sums) * _HELD_OUT_SHARE)
    return tuple(sums[:cut] if split == "held_out" else sums[cut:])


def phrase(problem: Sum, rng: random.Random) -> Question:
    """A wording of the sum, a quarter of them bare."""
    stories = ADDITIONS if problem.operator == "+" else SUBTRACTIONS
    pattern = rng.choice(BARE) if rng.random() < 0.25 else rng.choice(stories)
    text = pattern.format(
        name=rng.choice(NAMES), things=rng.choice(THINGS), left=problem.left, right=problem.right, operator=problem.operator
    )
    return Question(problem, text)


def draw_questions(split: Split, count: int, *, seed: int) -> list[Question]:
    """`count` questions about different sums, as many additions as subtractions. ValueError when the split has too few."""
    rng = random.Random(seed)
    per_operator = {"+": count - count // 2, "-": count // 2}
    questions: list[Question] = []
    for operator, wanted in per_operator.items():
        candidates = [problem for problem in sums_of(split) if problem.operator == operator]
        if wanted > len(candidates):
            raise ValueError(f"{split} has {len(candidates)} sums with {operator}; {wanted} were asked for.")
        questions += [phrase(problem, rng) for problem in rng.sample(candidates, wanted)]
    rng.shuffle(questions)
    return questions


def draw_tasks(split: Split, count: int = NUM_TASKS) -> list[Task]:
    """The benchmark tasks of a split: always the same ones for the same count."""
    questions = draw_questions(split, count, seed=_SEEDS[split])
    return [
        Task(task_id=f"{split}-{index:04d}", messages=[{"role": "user", "content": question.text}], answer=question.sum.answer)
        for index, question in enumerate(questions)
    ]


def draw_rows(count: int = NUM_TRAIN_ROWS) -> list[Row]:
    """Chats with worked answers, drawn from the train split: the rows to fine-tune on."""
    questions = draw_questions("train", count, seed=3)
    return [
        {"messages": [{"role": "user", "content": q.text}, {"role": "assistant", "content": q.sum.worked()}]} for q in questions
    ]


def check_disjoint(train: Iterable[str], held_out: Iterable[str]) -> None:
    """Raises DataError that names a question standing on both sides."""
    shared = sorted(set(train) & set(held_out))
    if shared:
        raise DataError(f"{len(shared)} questions stand in both splits, the first is {shared[0]!r}. Draw the splits again.")


def write_rows(folder: Path = ROWS) -> None:
    """Write train.jsonl, tasks_train.jsonl and tasks_held_out.jsonl, after checking that no held-out question is trained on."""
    rows, train, held_out = draw_rows(), draw_tasks("train"), draw_tasks("held_out")
    trained_on = [row["messages"][0]["content"] for row in rows] + [task.messages[0]["content"] for task in train]
    check_disjoint(trained_on, (task.messages[0]["content"] for task in held_out))
    folder.mkdir(parents=True, exist_ok=True)
    _write_jsonl(folder / "train.jsonl", rows)
    _write_jsonl(folder / "tasks_train.jsonl", [_task_row(task) for task in train])
    _write_jsonl(folder / "tasks_held_out.jsonl", [_task_row(task) for task in held_out])


def _task_row(task: Task) -> Row:
    return {"task_id": task.task_id, "messages": task.messages, "answer": task.answer}


def _write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_rows()
    logging.info("wrote %s", ROWS)
