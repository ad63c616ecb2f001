"""What a run sampled at one step, as its page and the API show it. It is read from the run's own rollouts.jsonl.

All of it comes from a model and from a file: texts are made storable and drawn escaped, numbers may be none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evsys_web.datasets.chats import Part, num_shared, readable, shown_part
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.work import storable_json
from recipes.errors import ConfigError
from recipes.registry import algorithms
from recipes.rollout_log import ROLLOUTS_FILE, LoggedStep, read_step

MAX_STEP = 10**12


@dataclass(frozen=True, slots=True)
class ShownRollout:
    number: int
    reply: Part
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """`prompt`: what all of its rollouts begin with. demonstration: what a teacher read in place of the question. is_rewarded:
    False where nobody judges. teaches: some rollout did better than another, or none needs to."""

    index: int
    task_id: str
    prompt: Part
    demonstration: str
    rollouts: list[ShownRollout]
    is_rewarded: bool
    teaches: bool


def has_rollouts(run: TrainingRun) -> bool:
    return not run.is_external and (run.output_dir / ROLLOUTS_FILE).is_file()


def offers_samples(run: TrainingRun) -> bool:
    """It has rollouts, or is of a kind that will soon have some."""
    if has_rollouts(run):
        return True
    if run.has_ended or run.is_external:
        return False
    try:
        return bool(getattr(algorithms.get(run.algorithm), "gives_rollouts", False))
    except ConfigError:  # of a package that is not installed any more
        return False


def rollouts_of(run: TrainingRun, step: int | None = None) -> LoggedStep | None:
    """Of that step, or of the last one before it that has some; None asks for the newest. None when the run has none."""
    logged = read_step(run.output_dir / ROLLOUTS_FILE, step) if has_rollouts(run) else None
    return logged if logged is not None and logged.groups else None


def shown_group(logged: LoggedStep, index: int) -> ShownGroup:
    """One group of a step; `index` must be one of its."""
    group = storable_json(logged.groups[index])
    rollouts = group["rollouts"]
    chats = [readable(rollout["messages"]) for rollout in rollouts]
    shared = num_shared(chats, [any(message["role"] == "assistant" for message in chat) for chat in chats])
    shown = [
        ShownRollout(rollout["attempt"] + 1, shown_part("", chat[shared:]), rollout)
        for rollout, chat in zip(rollouts, chats, strict=True)
    ]
    return ShownGroup(
        index=index,
        task_id=group["task_id"],
        prompt=shown_part("", chats[0][:shared] if chats else []),
        demonstration=next((rollout["demonstration"] for rollout in rollouts if rollout.get("demonstration")), ""),
        rollouts=shown,
        is_rewarded=is_rewarded(group),
        teaches=teaches(group),
    )


def is_rewarded(group: dict[str, Any]) -> bool:
    """Self-distillation knows no rewards."""
    return any(rollout["reward"] is not None for rollout in group["rollouts"])


def teaches(group: dict[str, Any]) -> bool:
    """Some rollout did better than another, or none needs to."""
    return not is_rewarded(group) or any(rollout["advantage"] for rollout in group["rollouts"])


def step_asked(text: str | None) -> int | None:
    """A step from an address; None for what is none."""
    return min(int(text), MAX_STEP) if text and text.isascii() and text.isdecimal() and len(text) < 20 else None
