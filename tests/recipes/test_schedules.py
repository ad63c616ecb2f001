"""Learning rates by table: base 1.0, ten steps."""

from __future__ import annotations

import math

import pytest

from recipes.config import BaseAlgorithmConfig, LRSchedule
from recipes.schedules import adam_at, learning_rate_at


def rates(schedule: LRSchedule, *, num_steps: int = 10, warmup_steps: int = 0, min_ratio: float = 0.0) -> list[float]:
    return [
        learning_rate_at(
            index, num_steps=num_steps, learning_rate=1.0, schedule=schedule, warmup_steps=warmup_steps, min_ratio=min_ratio
        )
        for index in range(num_steps)
    ]


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "min_ratio", "expected"),
    [
        (LRSchedule.CONSTANT, 0, 0.0, {0: 1.0, 9: 1.0}),
        (LRSchedule.CONSTANT, 5, 0.5, {0: 1.0, 9: 1.0}),
        (LRSchedule.LINEAR_WARMUP, 4, 0.0, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 9: 1.0}),
        (LRSchedule.LINEAR_DECAY, 0, 0.0, {0: 1.0, 3: 2 / 3, 9: 0.0}),
        (LRSchedule.LINEAR_DECAY, 4, 0.1, {0: 0.25, 3: 1.0, 4: 1.0, 9: 0.1}),
        (LRSchedule.COSINE, 4, 0.1, {0: 1.0, 9: 0.1}),
        (LRSchedule.COSINE, 0, 0.0, {3: (1 + math.cos(math.pi / 3)) / 2, 9: 0.0}),
        (LRSchedule.COSINE_WITH_WARMUP, 2, 0.2, {0: 0.5, 1: 1.0, 2: 1.0, 9: 0.2}),
        (LRSchedule.COSINE_WITH_WARMUP, 50, 0.0, {0: 0.1, 9: 1.0}),
    ],
)
def test_each_schedule_goes_through_the_points_of_its_formula(
    schedule: LRSchedule, warmup_steps: int, min_ratio: float, expected: dict[int, float]
) -> None:
    found = rates(schedule, warmup_steps=warmup_steps, min_ratio=min_ratio)
    assert {index: found[index] for index in expected} == pytest.approx(expected)


@pytest.mark.parametrize("schedule", list(LRSchedule))
def test_a_run_of_one_step_has_a_rate(schedule: LRSchedule) -> None:
    assert rates(schedule, num_steps=1) == [1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"step_index": -1},
        {"num_steps": 0},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"warmup_steps": -1},
        {"min_ratio": 1.5},
        {"min_ratio": math.nan},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    arguments = {"step_index": 0, "num_steps": 10, "learning_rate": 1.0} | wrong
    with pytest.raises(ValueError, match="no learning rate"):
        learning_rate_at(**arguments)  # type: ignore[arg-type]


def test_the_optimizer_gets_every_setting_of_the_config() -> None:
    config = BaseAlgorithmConfig(
        learning_rate=0.5,
        lr_schedule=LRSchedule.LINEAR_DECAY,
        adam_beta1=0.1,
        adam_beta2=0.2,
        adam_eps=0.3,
        weight_decay=0.4,
        grad_clip_norm=0.5,
    )
    adam = adam_at(1, config, 3)
    assert (adam.learning_rate, adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.grad_clip_norm) == (
        0.25,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
    )
