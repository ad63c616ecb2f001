"""The metrics that a managed job writes down, in our words, each value of each step once.

A job's file is read whole again and again while it grows, by this worker or by the next, and a job that its service restarts may
write steps a second time: what was reported of a step stays, and only values that are new for it are given out.

The keys on the left are those of the vendor's own published recipes; what a live job writes has not been seen. So reading is
lenient: a key that is not known keeps its name, a row that is none is passed over, and null stands for NaN where a number is due.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from recipes.managed_jobs import JobKind
from recipes.types import Metrics

COMMON = {
    "train/loss": "train/loss",
    "train/ppl": "train/perplexity",
    "train/lr": "optim/lr",
    "train/learning_rate": "optim/lr",
    "train/grad_norm": "optim/grad_norm",
    "train/epoch": "progress/epoch",
    "train/total_tokens": "tokens/total",
    "train/tokens_per_sec": "tokens/per_second",
    "train/step_time_sec": "time/step",
    "perf/fwd_bwd_time": "time/forward_backward",
    "perf/optim_step_time": "time/optim_step",
}
NAMES: dict[JobKind, dict[str, str]] = {
    JobKind.SFT: COMMON
    | {
        "train/ce_loss": "train/mean_nll",
        "eval/loss": "eval/validation_nll",
        "eval/ppl": "eval/validation_perplexity",
        "eval/tokens": "eval/validation_tokens",
    },
    JobKind.DPO: COMMON
    | {
        "train/dpo_loss": "train/loss",
        "train/margin": "rewards/margins",
        "train/accuracy": "rewards/accuracies",
        "eval/loss": "eval/validation_loss",
        "eval/margin": "eval/validation_margin",
        "eval/accuracy": "eval/validation_accuracy",
    },
    JobKind.RFT: COMMON
    | {
        "train/reward": "reward/mean",
        "reward": "reward/mean",
        "rollout/reward": "reward/mean",
        "train/kl": "kl/reference",
        "train/completion_length": "rollout/completion_tokens",
    },
}
"""The vendor's key → ours."""

STEP_KEYS = ("step", "train/step", "global_step")
MOST_KEYS = 64
LAST_STEP = 2**53
_KEY = re.compile(r"[A-Za-z][\w.-]{0,40}(/[\w.@-]{1,60}){1,3}")


class StepMetrics(NamedTuple):
    """What is new of one step."""

    step: int
    train: Metrics
    evaluated: Metrics


class Ledger:
    """What was reported. `last_step` is the highest step of it."""

    def __init__(self, kind: JobKind) -> None:
        self.last_step = 0
        self._kind = kind
        self._told: dict[int, set[str]] = {}

    def remember(self, step: int, keys: Iterable[str]) -> None:
        """An earlier worker reported these."""
        self._told.setdefault(step, set()).update(keys)
        self.last_step = max(self.last_step, step)

    def take(self, rows: Iterable[Mapping[str, Any]]) -> list[StepMetrics]:
        """The new values in these rows, by step."""
        new: dict[int, Metrics] = {}
        for row in rows:
            step = step_of(row)
            if step is None:
                continue
            told = self._told.get(step, ())
            for key, value in translated(row, self._kind).items():
                if key not in told:
                    new.setdefault(step, {}).setdefault(key, value)
        found = []
        for step, metrics in sorted(new.items()):
            self.remember(step, metrics)
            evaluated = {key: value for key, value in metrics.items() if key.startswith("eval/")}
            found.append(StepMetrics(step, {key: metrics[key] for key in metrics if key not in evaluated}, evaluated))
        return found


def step_of(row: Mapping[str, Any]) -> int | None:
    for key in STEP_KEYS:
        value = row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value < LAST_STEP:
            return int(value)
    return None


def translated(row: Mapping[str, Any], kind: JobKind) -> Metrics:
    """The numbers of one row by our keys; no more than MOST_KEYS."""
    names = NAMES[kind]
    metrics: Metrics = {}
    for key, value in row.items():
        if key in STEP_KEYS or len(metrics) >= MOST_KEYS:
            continue
        name = names.get(key) or (key if _KEY.fullmatch(key) else "")
        number = _number(value, is_due=key in names)
        if name and number is not None:
            metrics.setdefault(name, number)
    if kind is JobKind.SFT and "train/loss" in metrics:
        metrics.setdefault("train/mean_nll", metrics["train/loss"])
    return metrics


def _number(value: Any, *, is_due: bool) -> float | None:
    """None for what is no number."""
    if value is None:
        return math.nan if is_due else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
