"""Every write on a sweep that a page, the API and a command share. Each checks that the caller may, and says no in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from django.db import IntegrityError, transaction

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor, require_maker
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import RunRefused, launch_run, resume_run, stop_run
from evsys_web.runs.leftovers import remove_folder
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.status import ACTIVE, RESUMABLE, Status
from evsys_web.runs.work import storable, storable_json
from evsys_web.sweeps.models import Sweep, SweepRun
from recipes.config import DataConfig
from recipes.errors import ConfigError
from recipes.sweep_config import PlannedRun, SweepConfig, blamed


def launch_sweep(
    *,
    user: User,
    project: Project,
    config: SweepConfig,
    dataset_version: DatasetVersion,
    idempotency_key: str | None = None,
    auto_resume: bool = False,
) -> Sweep:
    """Queue every run of the sweep, or none. The same key from the same person gives the sweep that it made the first time.
    Raises ConfigError naming axis and value, or PermissionDenied for a project that is not the caller's."""
    require_editor(user, project)
    if idempotency_key and (made := _made_before(user, idempotency_key)):
        return made
    split = None if "data.split" in config.matrix.axes else dataset_version.training_split(config.data.split)
    config = config.model_copy(update={"data": DataConfig(dataset=dataset_version.reference, split=split)})
    planned = config.runs()
    try:
        with transaction.atomic():
            sweep: Sweep = Sweep.objects.create(
                project=project,
                created_by=user,
                name=storable(config.name),
                dataset_version=dataset_version,
                dataset_reference=dataset_version.reference,
                axis_order=list(config.matrix.axes),
                config=storable_json(config.model_dump(mode="json")),
                submission_key=idempotency_key or "",
            )
            launch = partial(_launch, user=user, project=project, dataset_version=dataset_version, auto_resume=auto_resume)
            SweepRun.objects.bulk_create(
                [SweepRun(sweep=sweep, run=launch(each), combination=each.combination, seed=each.seed) for each in planned]
            )
            record(user, "launched", sweep, after=facts(sweep))
    except IntegrityError:  # the same key at the same moment
        if idempotency_key and (made := _made_before(user, idempotency_key)):
            return made
        raise
    return sweep


def stop_sweep(*, user: User, sweep: Sweep) -> int:
    """Stop what waits and what runs, and return how many runs that was; a second time at once. Raises RunRefused."""
    return _each(sweep, (Status.QUEUED, *ACTIVE), partial(stop_run, user=user), user, "None of its runs waits or runs.")


def resume_sweep(*, user: User, sweep: Sweep) -> int:
    """Queue the runs again that failed, crashed or were cancelled, and return how many that was. Raises RunRefused."""
    return _each(sweep, RESUMABLE, partial(resume_run, user=user), user, "None of its runs failed, crashed or was cancelled.")


def delete_sweep(*, user: User, sweep: Sweep) -> None:
    """Remove the sweep with its runs, their points and checkpoints. For whoever started it, and the project's admins.
    Raises RunRefused while one of them waits or runs."""
    require_maker(user, sweep.project, sweep.created_by_id)
    with transaction.atomic():
        locked = list(TrainingRun.objects.select_for_update().filter(sweep_place__sweep=sweep))
        live = [run for run in locked if run.is_active or run.status == Status.QUEUED]
        if live:
            noun = "run waits or is" if len(live) == 1 else "runs wait or are"
            raise RunRefused(f"{len(live)} {noun} still at work. Stop the sweep first, then delete it.")
        forgets = [partial(remove_folder, run.output_dir, project_id=run.project_id, config=run.config) for run in locked]
        TrainingRun.objects.filter(pk__in=[run.pk for run in locked]).delete()
        record(user, "deleted", sweep, before=facts(sweep))
        sweep.delete()
        for forget in forgets:
            transaction.on_commit(forget, robust=True)


def _launch(
    planned: PlannedRun, *, user: User, project: Project, dataset_version: DatasetVersion, auto_resume: bool
) -> TrainingRun:
    try:
        return launch_run(
            user=user, project=project, config=planned.config, dataset_version=dataset_version, auto_resume=auto_resume
        )
    except ConfigError as error:
        of_an_axis = blamed(error, planned.values, planned.seed)
        raise (of_an_axis if of_an_axis.path[:1] == ("matrix",) else error) from None


def _each(sweep: Sweep, statuses: tuple[str, ...], action: Callable[..., TrainingRun], user: User, otherwise: str) -> int:
    """How many runs in these states were acted on; one that changed meanwhile is not counted."""
    require_editor(user, sweep.project)
    num_done = 0
    for run in TrainingRun.objects.filter(sweep_place__sweep=sweep, status__in=statuses).select_related("project").order_by("pk"):
        try:
            action(run=run)
        except RunRefused:
            continue
        num_done += 1
    if not num_done:
        raise RunRefused(otherwise)
    return num_done


def _made_before(user: User, key: str) -> Sweep | None:
    made: Sweep | None = Sweep.objects.filter(created_by=user, submission_key=key).first()
    return made
