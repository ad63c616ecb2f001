"""The learning rate of each step, as a pure function of where the run is."""

from __future__ import annotations

import math

from recipes.config import BaseAlgorithmConfig, LRSchedule
from recipes.types import AdamParams

WITHOUT_WARMUP = frozenset({LRSchedule.CONSTANT, LRSchedule.COSINE})


def learning_rate_at(
    step_index: int,
    *,
    num_steps: int,
    learning_rate: float,
    schedule: LRSchedule = LRSchedule.CONSTANT,
    warmup_steps: int = 0,
    min_ratio: float = 0.0,
) -> float:
    """Adam's step size for the step that is about to run (`step_index` counts from 0).

    Warm-up step s < w gives b(s+1)/w. After it t = (s−w)/(N−w−1) goes from 0 to exactly 1 on the last step: linear_decay is
    b(1−t)+mt, cosine is m+(b−m)(1+cos πt)/2, with floor m = min_ratio·b (Loshchilov & Hutter 2017, arXiv:1608.03983, one cycle).
    constant and cosine have no warm-up. Raises ValueError for a step, rate, length or ratio out of range.
    """
    if step_index < 0 or num_steps <= 0 or not learning_rate >= 0 or warmup_steps < 0 or not 0 <= min_ratio <= 1:
        raise ValueError(
            f"no learning rate at step_index={step_index}, num_steps={num_steps}, learning_rate={learning_rate},"
            f" warmup_steps={warmup_steps}, min_ratio={min_ratio}"
        )
    warmup = 0 if schedule in WITHOUT_WARMUP else min(warmup_steps, num_steps)
    if step_index < warmup:
        return learning_rate * (step_index + 1) / warmup
    if schedule in (LRSchedule.CONSTANT, LRSchedule.LINEAR_WARMUP):
        return learning_rate
    share = min(1.0, (step_index - warmup) / max(1, num_steps - warmup - 1))
    floor = min_ratio * learning_rate
    if schedule is LRSchedule.LINEAR_DECAY:
        return learning_rate * (1 - share) + floor * share
    return floor + (learning_rate - floor) * (1 + math.cos(math.pi * share)) / 2


def adam_at(step_index: int, config: BaseAlgorithmConfig, num_steps: int) -> AdamParams:
    """The optimizer's settings for one step, under the run's schedule."""
    return AdamParams(
        learning_rate=learning_rate_at(
            step_index,
            num_steps=num_steps,
            learning_rate=config.learning_rate,
            schedule=config.lr_schedule,
            warmup_steps=config.lr_warmup_steps,
            min_ratio=config.lr_min_ratio,
        ),
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        grad_clip_norm=config.grad_clip_norm,
    )
