"""What a run makes on somebody else's machines: written down before it is made, so that what a killed worker leaves can be found.

remote_resources.jsonl of the run's folder, a line per change: {"at", "change": "planned" | "gone", "kind", "name", "account",
"by"}. A name is the one by which the service deletes the thing; `by` is whose it is, among workers that follow each other. Lines
are only ever added, each synced to the disk before the call that it announces.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from recipes.checkpoints import MANIFEST_FILE

RESOURCES_FILE = "remote_resources.jsonl"
PLANNED, GONE = "planned", "gone"
MODEL = "model"
"""What was trained, made a model of the account: once a checkpoint of the run names it, it is the run's owner's."""
BILLED_BY_TIME = frozenset({"deployment", "trainer"})
"""Kinds that cost for as long as they are there: work that has ended has no use for them."""


class Resource(NamedTuple):
    """kind: the service's word for such things (dataset, job, trainer, deployment). account: whose it is there; empty where
    that is not known."""

    kind: str
    name: str
    account: str = ""


def fresh_name(run_id: str, of: str = "") -> str:
    """A name that nobody has used: two installations may share an account, and both count their runs from 1. Lower-case letters,
    digits and hyphens, at most 63. of: which of the run's things it is."""
    run, part = (re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in (run_id, of))
    name = f"evsys-{run[:36].strip('-') or 'run'}-{uuid.uuid4().hex[:8]}"
    return f"{name}-{part}"[:63].strip("-")


class _Plan(NamedTuple):
    at: str
    by: str


class ResourceLog:
    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / RESOURCES_FILE
        self._owner = uuid.uuid4().hex[:12]

    def plan(self, resource: Resource) -> None:
        """It is about to be made."""
        self._write(PLANNED, resource)

    def gone(self, resource: Resource) -> None:
        """It is deleted, or is not to be deleted."""
        self._write(GONE, resource)

    def take_over(self, resource: Resource) -> None:
        """What an earlier worker has left is this one's from now on; it was planned when it was."""
        if (plan := self._left().get(resource)) is not None:
            self._write(PLANNED, resource, at=plan.at)

    def own(self) -> list[Resource]:
        """What is left of what was planned or taken over here: a worker that has lost its run leaves the rest to its
        successor."""
        return [resource for resource, plan in self._left().items() if plan.by == self._owner]

    def left(self) -> list[Resource]:
        """What was planned, is not gone and is no checkpoint's, oldest first. A line that a crash tore announced nothing that was
        made."""
        return list(self._left())

    def hand_over(self) -> None:
        """Models that checkpoints name are not to be deleted, also when the manifest is."""
        for resource in self._planned():
            if self._is_a_checkpoint(resource):
                self.gone(resource)

    def seconds_since_planned(self, resource: Resource) -> float:
        """Of one that is left; 0 where the line does not say when."""
        try:
            at = datetime.fromisoformat(self._left().get(resource, _Plan("", "")).at)
            return max(0.0, (datetime.now(UTC) - at).total_seconds())
        except (ValueError, TypeError):  # no time, or one without its zone
            return 0.0

    def _left(self) -> dict[Resource, _Plan]:
        return {resource: plan for resource, plan in self._planned().items() if not self._is_a_checkpoint(resource)}

    def _is_a_checkpoint(self, resource: Resource) -> bool:
        """Its name is nobody else's, so that the manifest need not be understood."""
        if resource.kind != MODEL:
            return False
        manifest = self.path.parent / MANIFEST_FILE
        return manifest.exists() and f'/models/{resource.name}"' in manifest.read_text(encoding="utf-8", errors="replace")

    def _planned(self) -> dict[Resource, _Plan]:
        left: dict[Resource, _Plan] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                found = json.loads(line)
                resource = Resource(str(found["kind"]), str(found["name"]), str(found.get("account", "")))
                change = found["change"]
            except (ValueError, KeyError, TypeError):
                continue
            if change == PLANNED:
                left[resource] = _Plan(str(found.get("at", "")), str(found.get("by", "")))
            else:
                left.pop(resource, None)
        return left

    def _write(self, change: str, resource: Resource, *, at: str | None = None) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"at": now if at is None else at, "change": change, **resource._asdict(), "by": self._owner})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.read_bytes() if self.path.exists() else b""
        torn = bool(written) and not written.endswith(b"\n")
        with self.path.open("ab") as file:
            file.write(b"\n" * torn + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
