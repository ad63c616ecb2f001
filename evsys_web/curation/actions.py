"""Every write of curation that a page, the API and a command share. Each checks that the caller may."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from django.utils.timezone import now

from evsys_web.accounts.actions import require_membership
from evsys_web.accounts.models import Project, User
from evsys_web.curation.models import CuratedRow, Curation, Filter
from evsys_web.curation.pools import Sources, open_sources
from evsys_web.curation.rows import rows_of
from evsys_web.datasets.actions import publish_splits
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalRun, EvalTask
from evsys_web.runs.work import storable
from recipes.curation import CurationSettings, Selection, select
from recipes.errors import ConfigError
from recipes.rows import RowFormat

ROWS_PER_INSERT = 5_000


class NothingSelected(ConfigError):
    """The filter and the selection leave no row."""


class Published(NamedTuple):
    """`created` is False when the dataset had exactly these rows as `version`, from the very same curation."""

    curation: Curation
    version: DatasetVersion
    created: bool


def publish(
    *, user: User, project: Project, eval_runs: Sequence[EvalRun], settings: CurationSettings, name: str, description: str = ""
) -> Published:
    """The selected attempts as the next version of the dataset `name`; the one that is there when asked again.

    Rows are streamed from the database into a file. Then version, curation and the source of every row become visible in one
    transaction, or nothing does. Raises PermissionDenied; ConfigError for a name, eval runs or settings; DataError where no
    attempt has the metric."""
    require_membership(user, project)
    if not eval_runs or any(run.project_id != project.pk for run in eval_runs):
        raise ConfigError("Choose eval runs of this project.", path=("eval_runs",))
    sources = open_sources(eval_runs)
    selection = select(sources.pool, settings)
    if not len(selection):
        raise NothingSelected("Nothing to publish: no attempt passes the filter and the selection.", path=("filter",))
    order = _order(selection, settings)
    keys = EvalTask.objects.filter(eval_run__in=sources.runs).values_list("eval_run_id", "task_id", "pk")
    tasks = {(run, task_id): pk for run, task_id, pk in keys.iterator(chunk_size=5000)}
    made: list[Curation] = []

    def record(version: DatasetVersion) -> None:
        made.append(_record(version, user, project, sources, selection, order, tasks, settings, name.strip()))

    imported = publish_splits(
        user=user,
        project=project,
        name=name.strip(),
        splits={split: rows_of(sources, selection.attempts[at], selection.score[at]) for split, at in order.items()},
        row_format=RowFormat.MESSAGES,
        source="curated attempts",
        description=storable(description.strip())[:2000],
        record=record,
    )
    return Published(made[0], imported.version, imported.created)


def save_filter(*, user: User, project: Project, name: str, settings: CurationSettings) -> Filter:
    """Keep settings under a name, in the place of those that had it. Raises PermissionDenied, ConfigError."""
    require_membership(user, project)
    name = storable(name.strip())
    if not 0 < len(name) <= 200:
        raise ConfigError("Give the filter a name of 1 to 200 characters.", path=("name",))
    values = {"settings": settings.model_dump(mode="json"), "created_by": user, "updated_at": now()}
    saved, _ = Filter.objects.update_or_create(project=project, name=name, defaults=values)
    return saved


def delete_filter(*, user: User, saved: Filter) -> None:
    """What was published with it stays. Raises PermissionDenied."""
    require_membership(user, saved.project)
    saved.delete()


def _order(selection: Selection, settings: CurationSettings) -> dict[str, Any]:
    """By split, in the order of the file: indices into the selection. Without a holdout everything is `train`."""
    if not settings.val_fraction:
        return {"train": np.arange(len(selection))}
    held_out = selection.is_validation
    return {"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out)}


def _record(
    version: DatasetVersion,
    user: User,
    project: Project,
    sources: Sources,
    selection: Selection,
    order: dict[str, Any],
    tasks: dict[tuple[int, str], int],
    settings: CurationSettings,
    name: str,
) -> Curation:
    """Inside the transaction that makes the version."""
    values = settings.model_dump(mode="json")
    fingerprint = hashlib.sha256(json.dumps([values, sorted(sources.pool.runs)], sort_keys=True).encode()).hexdigest()
    if known := Curation.objects.filter(dataset_version=version, fingerprint=fingerprint).first():
        return known
    curation = Curation.objects.create(
        project=project,
        created_by=user,
        name=name,
        settings=values,
        sources=[_source(run) for run in sources.runs],
        dataset_version=version,
        dataset_reference=version.reference,
        fingerprint=fingerprint,
        counts=selection.preview.counts() | {"skipped": selection.preview.skipped},
    )
    curation.eval_runs.set(sources.runs)
    if not CuratedRow.objects.filter(version=version).exists():
        _write_sources(version, sources, selection, order, tasks)
    return curation


def _source(run: EvalRun) -> dict[str, Any]:
    return {
        "eval_run": run.pk,
        "name": run.name,
        "model": run.model_label,
        "benchmark": run.benchmark.name if run.benchmark else run.dataset_reference,
        "k": run.k,
        "num_tasks": run.num_tasks,
        "last_seq": run.last_seq,
    }


def _write_sources(
    version: DatasetVersion, sources: Sources, selection: Selection, order: dict[str, Any], tasks: dict[tuple[int, str], int]
) -> None:
    pool, first = sources.pool, 0
    for split, places in order.items():
        for start in range(0, len(places), ROWS_PER_INSERT):
            chunk = places[start : start + ROWS_PER_INSERT]
            pairs = zip(selection.attempts[chunk].tolist(), selection.score[chunk].tolist(), strict=True)
            CuratedRow.objects.bulk_create(
                CuratedRow(
                    version=version,
                    position=position,
                    split=split,
                    eval_run=(run := sources.runs[pool.run[at]]),
                    task_id=tasks.get((run.pk, pool.tasks[pool.task[at]].task_id)),
                    attempt_id=int(pool.ids[at]),
                    number=int(pool.number[at]),
                    score=score,
                )
                for position, (at, score) in enumerate(pairs, start=first + start)
            )
        first += len(places)
