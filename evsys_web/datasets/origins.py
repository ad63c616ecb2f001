"""Where single rows come from. Later apps know (an attempt of an eval), this one does not: each adds its own tracer in its
AppConfig's `ready`, and pages show what the tracers give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from evsys_web.accounts.models import User
from evsys_web.datasets.models import DatasetVersion


class Origin(NamedTuple):
    """Shown beside a row: a label, words to read, and where they lead."""

    label: str
    text: str
    url: str


Tracer = Callable[[DatasetVersion, Sequence[int], User], Mapping[int, Sequence[Origin]]]
"""(version, positions of rows from 0, who looks) → the origins of those rows that have any. One query for all of them."""

tracers: list[Tracer] = []


def origins_of(version: DatasetVersion, positions: Sequence[int], user: User) -> dict[int, list[Origin]]:
    found: dict[int, list[Origin]] = {}
    for tracer in tracers:
        for position, origins in tracer(version, positions, user).items():
            found.setdefault(position, []).extend(origins)
    return found
