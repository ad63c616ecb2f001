"""What an exported cycle holds: `manifest.json` as below, and beside it files whose places follow from it, so that no path is
ever read from an archive.

    README.md · config.yaml · tasks/learn.jsonl · tasks/judge.jsonl · baseline/attempts.jsonl
    rounds/<n>/: attempts.jsonl · rows.jsonl · origins.jsonl · run.yaml · metrics.jsonl · metrics.csv · held_out.jsonl · adapter/
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from evsys_web.cycles.models import Reason, Stage
from evsys_web.runs.status import Status
from recipes.config import Settings

FORMAT = "evsys-cycle"
MANIFEST, README, CONFIG = "manifest.json", "README.md", "config.yaml"
BASELINE = "baseline/attempts.jsonl"
WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,100}(\.[A-Za-z0-9_-]{1,40})*\.(safetensors|json|txt|jinja|model)")
"""Files that a checkpoint may bring: safetensors, and JSON or text beside it; nothing that is unpickled."""
Count = Field(ge=0, le=2**53)
NAME = Field(min_length=1, max_length=200)


def tasks_file(side: str) -> str:
    return f"tasks/{side}.jsonl"


def round_file(number: int, name: str) -> str:
    return f"rounds/{number}/{name}"


class Span(Settings):
    """Of something that was worked on."""

    started_at: datetime | None
    finished_at: datetime | None


class SideRecord(Settings):
    """The benchmark of one side; its tasks are in `tasks_file`."""

    benchmark: str = NAME
    verifier: dict[str, Any]
    dataset: str = Field(min_length=1, max_length=100)


class EvalRecord(Span):
    """leaked: ids of the tasks that its model had been trained on, which count for nothing."""

    name: str = NAME
    model: str = Field(max_length=400)
    config: dict[str, Any]
    leaked: list[Annotated[str, Field(max_length=300)]] = Field(max_length=1_000_000)


class SplitRecord(Settings):
    name: str = Field(min_length=1, max_length=20)
    num_rows: int = Count


class CurationRecord(Settings):
    name: str = NAME
    settings: dict[str, Any]
    counts: dict[str, Any]
    dataset: str = Field(min_length=1, max_length=100)
    splits: list[SplitRecord] = Field(max_length=100)


class CheckpointRecord(Settings):
    """files: in the round's folder adapter/."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    step: int = Count
    metrics: dict[str, float | str]
    files: list[str] = Field(max_length=100)


class RunRecord(Span):
    name: str = NAME
    config: dict[str, Any]
    step: int = Count
    num_steps: int = Count
    checkpoint: CheckpointRecord | None


class RoundRecord(Span):
    attempts: EvalRecord | None
    curation: CurationRecord | None
    run: RunRecord | None
    held_out: EvalRecord | None


class Archive(Span):
    """Everything about a cycle but its rows, attempts, points and weights. rounds: in order, from the first."""

    format: Literal["evsys-cycle"] = "evsys-cycle"
    version: Literal[1] = 1
    name: str = NAME
    config: dict[str, Any]
    status: Literal[Status.COMPLETED, Status.FAILED, Status.CRASHED, Status.CANCELLED]
    stage: Stage
    round_number: int = Field(ge=0, le=100)
    reason: Reason | Literal[""]
    error: str = Field(max_length=10_000)
    num_tokens: int = Count
    num_seconds: float = Field(ge=0, le=1e12)
    learn: SideRecord
    judge: SideRecord
    baseline: EvalRecord | None
    rounds: list[RoundRecord] = Field(max_length=100)
