"""The words for how a run stands, and what a worker may be asked."""

from __future__ import annotations

from typing import NamedTuple

from django.db import models


class Status(models.TextChoices):
    DRAFT = "draft", "Draft"
    QUEUED = "queued", "Queued"
    STARTING = "starting", "Starting"
    RUNNING = "running", "Running"
    STOPPING = "stopping", "Stopping"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"
    CRASHED = "crashed", "Crashed"
    CANCELLED = "cancelled", "Cancelled"


ACTIVE = (Status.STARTING, Status.RUNNING, Status.STOPPING)
ENDED = (Status.COMPLETED, Status.FAILED, Status.CRASHED, Status.CANCELLED)
RESUMABLE = (Status.FAILED, Status.CRASHED, Status.CANCELLED)


class Stop(models.IntegerChoices):
    """What was asked of the worker. Truthy when anything was."""

    NONE = 0, "None"
    AFTER_STEP = 1, "After this step, with a checkpoint"
    NOW = 2, "At once"


class Priority(models.IntegerChoices):
    """Of what waits, the higher goes first."""

    LOW = -1, "Low"
    NORMAL = 0, "Normal"
    HIGH = 1, "High"


class Standing(NamedTuple):
    """What a worker learns when it renews its lease. `held` False: another worker, or nobody, has the run; write nothing more."""

    held: bool
    last_seq: int = 0
    stop: int = Stop.NONE
    hand_back: bool = False
