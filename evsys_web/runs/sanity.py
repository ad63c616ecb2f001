"""Whether reinforcement learning goes well: the few curves that tell, each with a sentence and a rule for when to worry.

Rules look at the mean of the last WINDOW steps, so that one odd step alarms nobody. The bounds are common sense from practice,
not theorems: a warning is a reason to read rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evsys_web.runs import metrics
from evsys_web.runs.models import TrainingRun

REWARD = "reward/mean"
WINDOW = 5
MAX_POINTS = 200
WIDTH, HEIGHT = 160, 36


class Trend(NamedTuple):
    """Means over WINDOW steps: at the start, the best one, and now."""

    first: float
    best: float
    last: float


class Signal(NamedTuple):
    """worry(trend, trend of the reward): what to say when something is off; empty when not."""

    key: str
    title: str
    sentence: str
    worry: Callable[[Trend, Trend], str]


@dataclass(frozen=True, slots=True)
class ShownSignal:
    """points: of an SVG polyline in WIDTH × HEIGHT. steps: of its first and last point."""

    signal: Signal
    value: float
    warning: str
    points: str
    first_step: int
    last_step: int


def _fallen(trend: Trend, reward: Trend) -> str:
    if trend.best - trend.last <= 0.3 * max(abs(trend.best), trend.best - trend.first):
        return ""
    return "It has lost much of what it had gained: go back to an earlier checkpoint, and lower the step size."


def _without_gradient(trend: Trend, reward: Trend) -> str:
    if trend.last <= 0.8:
        return ""
    if reward.last > 0.5 * reward.best and reward.last > 0.5:
        return "Most tasks are solved in every attempt: there is little left to learn from them."
    return "Most groups earn the same in every attempt: take easier tasks, more attempts per task, or another verifier."


def _drifting(trend: Trend, reward: Trend) -> str:
    if trend.last <= 0.01:
        return ""
    return "Sampler and trainer disagree: look at the temperature and at the precision of both."


def _narrow(trend: Trend, reward: Trend) -> str:
    if trend.last >= 0.1 * trend.first or trend.first <= 0:
        return ""
    return "The model hardly varies its replies any more: nothing new is tried."


def _ratio(trend: Trend, reward: Trend) -> str:
    return "" if trend.last <= 10 else "Single tokens count ten times: one of them can steer a whole step."


def _length(trend: Trend, reward: Trend) -> str:
    if trend.first > 0 and trend.last > 3 * trend.first:
        return "Replies are more than three times as long as at the start: read some of them."
    if trend.first > 0 and trend.last < trend.first / 3:
        return "Replies are less than a third as long as at the start: read some of them."
    return ""


def _truncated(trend: Trend, reward: Trend) -> str:
    return "" if trend.last <= 0.3 else "Many replies are cut off before they answer: allow longer ones."


SIGNALS = (
    Signal(REWARD, "Reward", "Mean over all attempts, kept and dropped alike.", _fallen),
    Signal(
        "rollout/without_gradient",
        "Groups without gradient",
        "Share of groups whose attempts all earned the same.",
        _without_gradient,
    ),
    Signal("kl/sampler", "KL to the sampler", "How far the trained weights are from those that sampled.", _drifting),
    Signal("rollout/entropy", "Entropy", "How much the replies vary, in nats per token.", _narrow),
    Signal("train/ratio_max", "Largest ratio", "The token whose probability differs most between trainer and sampler.", _ratio),
    Signal("rollout/completion_tokens", "Reply length", "Mean tokens per attempt.", _length),
    Signal("rollout/truncated", "Cut off", "Share of attempts that reached the longest reply.", _truncated),
)


def sanity(run: TrainingRun, keys: Sequence[str]) -> list[ShownSignal]:
    """The signals that the run reports; [] for a run without rewards."""
    if REWARD not in keys:
        return []
    curves = metrics.series(run, [signal.key for signal in SIGNALS], max_points=MAX_POINTS)
    finite = {key: _finite(curve.x.tolist(), curve.y_last.tolist()) for key, curve in curves.items()}
    reward = finite[REWARD]
    if not reward:
        return []
    of_reward = _trend([value for _, value in reward])
    return [_shown(signal, finite[signal.key], of_reward) for signal in SIGNALS if finite[signal.key]]


def _shown(signal: Signal, points: list[tuple[float, float]], reward: Trend) -> ShownSignal:
    values = [value for _, value in points]
    return ShownSignal(
        signal,
        value=values[-1],
        warning=signal.worry(_trend(values), reward) if len(values) >= WINDOW else "",
        points=_polyline(points),
        first_step=int(points[0][0]),
        last_step=int(points[-1][0]),
    )


def _finite(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]


def _trend(values: Sequence[float]) -> Trend:
    window = min(WINDOW, len(values))
    means = [sum(values[at : at + window]) / window for at in range(len(values) - window + 1)]
    return Trend(means[0], max(means), means[-1])


def _polyline(points: list[tuple[float, float]]) -> str:
    (left, right) = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    wide, tall = max(right - left, 1e-12), high - low
    placed = (
        (WIDTH * (x - left) / wide, HEIGHT * (0.5 if tall <= 1e-9 * max(1.0, abs(high)) else (high - y) / tall))
        for x, y in points
    )
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
