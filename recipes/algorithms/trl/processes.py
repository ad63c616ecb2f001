"""Which of the processes that `accelerate launch` started this one is. One alone is the first of one."""

from __future__ import annotations

import os


def rank() -> int:
    """From 0. Only the first tells and writes."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_alone_by_mistake() -> bool:
    """Whether accelerate was asked for several processes and started one: without several GPUs it does, and says nothing. It then
    tells where the others would be found, and not how many there are."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ
