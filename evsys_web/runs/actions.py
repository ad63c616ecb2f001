"""Every write on a run that a page, the API and a command share. Each checks that the caller may, and says no in a sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.timezone import now

from evsys_web.accounts.audit import NUL, facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor, require_maker
from evsys_web.datasets.models import DatasetVersion, VersionStatus
from evsys_web.runs import metrics
from evsys_web.runs.backends import check_backend, check_model_name
from evsys_web.runs.launches import announce, made_before, queue_once
from evsys_web.runs.leftovers import remove_folder
from evsys_web.runs.metrics import Point
from evsys_web.runs.models import Checkpoint, Status, TrainingRun, storable
from evsys_web.runs.tasks import train_run
from evsys_web.runs.turns import refuse_full_queue
from recipes.config import DataConfig, RunConfig
from recipes.errors import ConfigError, RecipeError
from recipes.registry import algorithms


class RunRefused(RecipeError):
    """What was asked does not fit the run's state."""


def launch_run(
    *,
    user: User,
    project: Project,
    config: RunConfig,
    dataset_version: DatasetVersion,
    idempotency_key: str | None = None,
    cloned_from: TrainingRun | None = None,
    auto_resume: bool = False,
    is_part: bool = False,
) -> TrainingRun:
    """Queue a run. The same key from the same person gives the run that it made the first time. is_part: of work that is under
    way already, which no full queue may end. Raises ConfigError, or PermissionDenied for a project that is not the caller's."""
    require_editor(user, project)
    if made := made_before(TrainingRun, user, idempotency_key):
        return made
    split = _usable(dataset_version, project).training_split(config.data.split)
    config = config.model_copy(update={"data": DataConfig(dataset=dataset_version.reference, split=split)})
    config.check()
    _refuse_other_rows(config.algorithm.kind, dataset_version)
    for path, name in (("name", config.model.name), ("init_from_checkpoint", config.model.init_from_checkpoint)):
        refuse_foreign_folder(user, name, path=("model", path))
    refuse_expired(user, config.model.init_from_checkpoint, path=("model", "init_from_checkpoint"))
    config.check_weights()
    check_model_name(config.backend.kind, config.model.name)
    check_backend(project, config.backend)
    if not is_part:
        refuse_full_queue(project)
    return queue_once(
        TrainingRun,
        train_run,
        user=user,
        key=idempotency_key,
        project=project,
        name=storable(config.name),
        dataset_version=dataset_version,
        dataset_reference=dataset_version.reference,
        config=config.model_dump(mode="json"),
        cloned_from=cloned_from,
        auto_resume=auto_resume,
    )


def stop_run(*, user: User, run: TrainingRun) -> TrainingRun:
    """A queued run is cancelled at once, a running one after its step, at the second call at once. Raises RunRefused."""
    require_editor(user, run.project)
    before = run.status
    with transaction.atomic():
        if run.is_external or not run.request_stop():
            raise RunRefused(_standing_sentence(run, "stopped"))
        run.note(f"Stop asked by {user}.")
        record(user, "stopped", run, before={"status": before}, after={"status": run.status})
    return run


def resume_run(*, user: User, run: TrainingRun) -> TrainingRun:
    """Queue an ended run again, to go on from its newest checkpoint. Raises RunRefused."""
    require_editor(user, run.project)
    run.refresh_from_db()
    if run.dataset_version_id is None and not run.is_external:
        raise RunRefused(f"The dataset {run.dataset_reference} was deleted, so this run cannot go on. Clone it with another one.")
    before = run.status
    with transaction.atomic():
        if not run.queue():
            raise RunRefused(_standing_sentence(run, "resumed"))
        run.note(f"Resume asked by {user}.")
        record(user, "resumed", run, before={"status": before}, after={"status": run.status})
        announce(run, train_run)
    return run


def delete_run(*, user: User, run: TrainingRun) -> None:
    """Remove the run, its points and its folder. For whoever started it, and the project's admins. Raises RunRefused."""
    require_maker(user, run.project, run.created_by_id)
    folder = run.output_dir
    with transaction.atomic():
        locked = TrainingRun.objects.select_for_update().filter(pk=run.pk).first()
        if locked is None:
            return
        if locked.is_active and not locked.is_external:
            raise RunRefused(f"This run is {locked.get_status_display().lower()}. Stop it first, then delete it.")
        record(user, "deleted", locked, before=facts(locked))
        locked.delete()
        forget = partial(remove_folder, folder, project_id=run.project_id, config=run.config)
        transaction.on_commit(forget)


def launch_external_run(
    *, user: User, project: Project, name: str, num_steps: int = 0, config: dict[str, Any] | None = None
) -> TrainingRun:
    """A run that is trained elsewhere and reports in by `log_points`."""
    require_editor(user, project)
    if NUL.search(json.dumps(config or {})):
        raise ConfigError("The config holds a NUL character, which no database keeps.", path=("config",))
    with transaction.atomic():
        run: TrainingRun = TrainingRun.objects.create(
            project=project,
            created_by=user,
            name=storable(name),
            num_steps=num_steps,
            config=config or {},
            is_external=True,
            status=Status.RUNNING,
            started_at=now(),
        )
        record(user, "announced", run, after=facts(run))
    return run


def log_points(*, user: User, run: TrainingRun, points: Sequence[Point]) -> int:
    """Store what is new of the points and return how many values that was. Of two values for the same step and key the first
    stays, so a batch may be sent again. Raises RunRefused for a run that is not external or has ended."""
    require_editor(user, run.project)
    with transaction.atomic():
        if not run.report_in(step=max((point.step for point in points), default=0)):
            raise RunRefused(_external_sentence(run))
        known = metrics.known(run, [point.step for point in points])
        fresh, num_values = [], 0
        for point in points:
            values = {key: value for key, value in metrics.checked(point.values).items() if (point.step, key) not in known}
            known |= {(point.step, key) for key in values}
            if values:
                fresh.append(point._replace(values=values))
                num_values += len(values)
        metrics.write(run, enumerate(fresh, run.next_seqs(len(fresh))))
        metrics.fold(run, keep=metrics.KEEP_ROWS)
    return num_values


def finish_external_run(*, user: User, run: TrainingRun, status: Status, error: str = "") -> TrainingRun:
    """The run that was trained elsewhere has ended. Raises RunRefused."""
    require_editor(user, run.project)
    with transaction.atomic():
        if not run.report_end(status, error=error):
            raise RunRefused(_external_sentence(run))
        metrics.fold(run)
        record(user, "finished", run, before={"status": Status.RUNNING}, after={"status": status, "error": error})
    return run


def _external_sentence(run: TrainingRun) -> str:
    run.refresh_from_db()
    if not run.is_external:
        return "This run is trained here; only runs made for training elsewhere take points."
    return f"This run is {run.get_status_display().lower()} and takes no more points."


def _usable(version: DatasetVersion, project: Project) -> DatasetVersion:
    if version.dataset.project_id != project.pk or version.status != VersionStatus.READY:
        raise ConfigError("Choose a dataset version of this project that is ready.", path=("data", "dataset"))
    return version


def _refuse_other_rows(kind: str, version: DatasetVersion) -> None:
    needed = getattr(algorithms.get(kind), "row_format", None)  # an installed algorithm need not know the word
    if needed is not None and version.format != needed:
        raise ConfigError(
            f"{kind} learns from {needed} rows, and {version.reference} holds {version.format} rows. Choose another dataset.",
            path=("data", "dataset"),
        )


def refuse_foreign_folder(user: User, name: str | None, *, path: tuple[str, ...]) -> None:
    """Run folders lie side by side on disk; a path into one is only for those who may see that run."""
    root = Path(settings.RUNS_DIR).resolve()
    folder = Path(name or "").expanduser().resolve()
    if not name or not folder.is_relative_to(root):
        return
    owner = folder.relative_to(root).parts[:1]
    visible = TrainingRun.objects.visible_to(user)
    if not owner or not owner[0].isdecimal() or not visible.filter(pk=int(owner[0])).exists():
        raise ConfigError(f"There is no checkpoint {name} that you can see.", path=path)


def refuse_expired(user: User, uri: str | None, *, path: tuple[str, ...]) -> None:
    """Raises ConfigError for a checkpoint that is known to be removed by now."""
    visible = TrainingRun.objects.visible_to(user).values("pk")
    gone = Checkpoint.objects.filter(sampler_uri=uri or None, expires_at__lte=now(), run__in=visible).first()
    if gone is not None:
        raise ConfigError(
            f"The checkpoint {gone} expired on {gone.expires_at:%d %B %Y}: whoever kept its weights has removed them."
            " Choose another one.",
            path=path,
        )


def _standing_sentence(run: TrainingRun, what: str) -> str:
    run.refresh_from_db()
    if run.is_external:
        return f"This run is trained elsewhere and cannot be {what} from here."
    return f"This run is {run.get_status_display().lower()} and cannot be {what}."
