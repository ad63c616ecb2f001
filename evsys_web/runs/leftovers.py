"""What runs and evals left on other people's machines, and its removal: datasets, jobs that nobody watches any more, deployments.

A folder of the work says what it was about to make there (`recipes.resources`). A folder whose work was deleted keeps that and
whose key may remove it (OWNER_FILE), until all of it is gone.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import Error, connections
from django.utils.timezone import now
from pydantic import ValidationError

from evsys_web.accounts.models import Project
from evsys_web.outages import is_database_away
from evsys_web.runs.backends import backend_secrets
from evsys_web.runs.leases import begin_beside, kinds, rows
from evsys_web.runs.models import ENDED
from evsys_web.runs.work import Work
from recipes.config import BackendChoice
from recipes.errors import RecipeError
from recipes.managed_jobs import ManagedJobs
from recipes.registry import backends
from recipes.resources import BILLED_BY_TIME, RESOURCES_FILE, Resource, ResourceLog
from recipes.stores import write_atomically

logger = logging.getLogger(__name__)

OWNER_FILE = "remote_owner.json"
TIDY_SECONDS = 600.0
COSTLY_AFTER = timedelta(minutes=10)
"""So long after the end of its work what costs while it is there may go, however long other things are kept for a resume. It goes
when a worker looks next: after 20 minutes at most."""


@dataclass(frozen=True)
class Leftover:
    """What one run or eval left. work: None when it was deleted."""

    noun: str
    folder: Path
    work: Work | None
    project: Project
    backend: BackendChoice
    resources: list[Resource]

    @property
    def name(self) -> str:
        return f"{self.noun} {self.folder.name}" + ("" if self.work else ", deleted")


def remove_folder(folder: Path, *, project_id: int, config: dict[str, Any]) -> None:
    """Of work that is deleted. What it left elsewhere stays written down; what its checkpoints name stays, and is nobody's to
    remove."""
    ResourceLog(folder).hand_over()
    if folder.is_dir() and ResourceLog(folder).left():
        owner = {"project": project_id, "backend": config.get("backend", {})}
        write_atomically(folder / OWNER_FILE, json.dumps(owner) + "\n")
        for path in folder.iterdir():
            if path.name not in (OWNER_FILE, RESOURCES_FILE):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return
    shutil.rmtree(folder, ignore_errors=True)


def leftovers(*, older_than: timedelta | None = None) -> Iterator[Leftover]:
    """Of work that is deleted, or that ended so long ago (None: as long as its kind may still need it). Never of what waits, or
    what a worker holds."""
    for model in kinds():
        if not issubclass(model, Work) or model.LEAVES_BELOW is None:
            continue
        for path in sorted(Path(settings.RUNS_DIR, model.LEAVES_BELOW).glob(f"*/{RESOURCES_FILE}")):
            if path.parent.name.isdecimal():
                yield from _left_in(path.parent, model, older_than)


def _left_in(folder: Path, model: type[Work], older_than: timedelta | None) -> Iterator[Leftover]:
    left, noun = ResourceLog(folder).left(), str(model._meta.verbose_name)
    if not left:
        return
    work: Any = rows(model).select_related("project").filter(pk=int(folder.name)).first()
    if work is not None:
        if work.status in ENDED and work.finished_at is not None:
            ended = now() - work.finished_at
            left = [each for each in left if ended >= (_kept_for(each, model) if older_than is None else older_than)]
            if left:
                yield Leftover(noun, folder, work, work.project, BackendChoice.model_validate(work.config["backend"]), left)
    elif owned := _owner(folder):
        yield Leftover(noun, folder, None, *owned, left)


def _kept_for(resource: Resource, model: type[Work]) -> timedelta:
    return min(COSTLY_AFTER, model.ABANDONED_AFTER) if resource.kind in BILLED_BY_TIME else model.ABANDONED_AFTER


def _owner(folder: Path) -> tuple[Project, BackendChoice] | None:
    """None when nobody is left whose key could remove anything."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        project, backend = Project.objects.filter(pk=owner["project"]).first(), BackendChoice.model_validate(owner["backend"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
    return (project, backend) if project is not None else None


def remove(leftover: Leftover) -> Iterator[tuple[Resource, str]]:
    """Remove each thing; with it, why it could not be removed, or nothing. What failed is tried again the next time."""
    log = ResourceLog(leftover.folder)
    for account in dict.fromkeys(resource.account for resource in leftover.resources):
        yield from _remove_of(account, leftover, log)
    if leftover.work is None and not log.left():
        shutil.rmtree(leftover.folder, ignore_errors=True)


def _remove_of(account: str, leftover: Leftover, log: ResourceLog) -> Iterator[tuple[Resource, str]]:
    resources = [resource for resource in leftover.resources if resource.account == account]
    try:
        jobs = _open(leftover, account)
    except RecipeError as error:
        yield from ((resource, str(error)) for resource in resources)
        return
    try:
        for resource in resources:
            try:
                jobs.delete(resource)
            except RecipeError as error:
                yield resource, str(error)
                continue
            log.gone(resource)
            yield resource, ""
    finally:
        jobs.close()


def _open(leftover: Leftover, account: str) -> ManagedJobs:
    """Raises RecipeError, also for a key that leads to another account."""
    backend_class = backends.get(leftover.backend.kind)
    config = backend_class.Config.model_validate(leftover.backend.params)
    secrets = backend_secrets(leftover.project, leftover.backend)
    opened: ManagedJobs = backend_class.jobs(config, secrets=secrets, account=account)
    return opened


class Tidying:
    """What a worker of training runs does beside its work, when it starts and every ten minutes from then on: what was left may
    cost, and a worker may live for months. A look reads small files; a service is asked only where something is to go. Called as
    one of the things that its sweeps look over."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._begun_at: float | None = None

    def __call__(self, worker: str) -> None:
        is_due = self._begun_at is None or time.monotonic() - self._begun_at >= TIDY_SECONDS
        if is_due and (self._thread is None or not self._thread.is_alive()):
            self._begun_at = time.monotonic()
            self._thread = begin_beside(self._tidy_up, name="tidy-up")

    def _tidy_up(self) -> None:
        if not tidy_up():
            self._begun_at = None  # the next sweep tries again


def tidy_up() -> bool:
    """Remove all that is left, and log it. False: the database was away."""
    try:
        for leftover in leftovers():
            for resource, why in remove(leftover):
                words = f"was not removed: {why}" if why else "was removed"
                level = logging.WARNING if why else logging.INFO
                logger.log(level, "%s: %s %s %s", leftover.name, resource.kind, resource.name, words)
    except (Error, OSError, ValidationError) as error:
        logger.warning("What runs left elsewhere could not be looked over", exc_info=True)
        return not is_database_away(error)
    finally:
        connections.close_all()
    return True
