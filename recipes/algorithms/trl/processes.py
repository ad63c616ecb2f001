"""Which of the processes that `accelerate launch` started this one is. One alone is the first of one."""

from __future__ import annotations

import os


def rank() -> int:
    """From 0. Only the first tells and writes."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
