"""Every write of curation that a page, the API and a command share. Each checks that the caller may."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from django.db import connection, transaction
from django.utils.timezone import now

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.curation.models import CuratedRow, Curation, Filter, Side
from evsys_web.curation.pools import Sources, open_sources
from evsys_web.curation.rows import rows_of
from evsys_web.datasets.actions import publish_splits
from evsys_web.datasets.models import DatasetVersion
from evsys_web.datasets.publishing import hold
from evsys_web.datasets.splits import TRAIN, VALIDATION, check_names
from evsys_web.evals.models import EvalRun, EvalTask
from evsys_web.runs.work import storable
from recipes.curation import CurationSettings, Rows, Selection, select
from recipes.curation.columns import Floats, Integers
from recipes.errors import ConfigError
from recipes.rows import RowFormat
from recipes.types import Row

ROWS_PER_INSERT = 5_000
INSERT_SOURCE = """INSERT INTO {table} (version_id, split, side, position, eval_run_id, task_id, attempt_id, number, score)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""


class NothingSelected(ConfigError):
    """The filter and the selection leave no row."""


class SplitNames(NamedTuple):
    """Of the version that is made: the split to learn from, and the one held out. Runs learn from `train` and are measured on
    `validation` unless told otherwise."""

    train: str = TRAIN
    held_out: str = VALIDATION


USUAL_SPLITS = SplitNames()


class Published(NamedTuple):
    """`created` is False when the dataset had exactly these rows as `version`, from the very same curation."""

    curation: Curation
    version: DatasetVersion
    created: bool


def publish(
    *,
    user: User,
    project: Project,
    eval_runs: Sequence[EvalRun],
    settings: CurationSettings,
    name: str,
    description: str = "",
    split_names: SplitNames = USUAL_SPLITS,
) -> Published:
    """The selected attempts as the next version of the dataset `name`; the one that is there when asked again.

    Rows are streamed from the database into a file, and their sources written under a draft. Then version, curation and the
    source of every row become visible in one transaction, or nothing does. Raises PermissionDenied; ConfigError for names, eval
    runs or settings; DataError where no attempt has the metric, or somebody deletes meanwhile what this is made of or goes to."""
    require_editor(user, project)
    if not eval_runs or any(run.project_id != project.pk for run in eval_runs):
        raise ConfigError("Choose eval runs of this project.", path=("eval_runs",))
    check_split_names(split_names, settings)
    sources = open_sources(eval_runs)
    selection = select(sources.pool, settings)
    if not len(selection):
        raise NothingSelected(nothing_to_publish(settings), path=("filter",))
    publication = _Publication(user, project, sources, settings, selection, name.strip(), split_names)
    imported = publish_splits(
        user=user,
        project=project,
        name=publication.name,
        splits={split: publication.rows(places) for split, places in publication.order.items()},
        row_format=RowFormat.PREFERENCE if settings.rows is Rows.PAIRS else RowFormat.MESSAGES,
        source="curated pairs of attempts" if settings.rows is Rows.PAIRS else "curated attempts",
        description=storable(description.strip())[:2000],
        beside=publication,
    )
    return Published(publication.curation, imported.version, imported.created)


def check_split_names(names: SplitNames, settings: CurationSettings) -> None:
    """Raises ConfigError for a name that is none, for one given twice, and for one of a split that these settings do not make."""
    for field, name in (("split", names.train), ("val_split", names.held_out)):
        try:
            check_names([name])
        except ConfigError as error:
            raise ConfigError(str(error), path=(field,)) from None
    if settings.val_fraction and names.train == names.held_out:
        raise ConfigError(f"Rows to learn from and rows held out cannot both be called {names.train}.", path=("val_split",))
    if not settings.val_fraction and names.held_out != VALIDATION:
        raise ConfigError(
            f"Nothing is held out that could be called {names.held_out}: set val_fraction, the share of the tasks that is.",
            path=("val_split",),
        )


def save_filter(*, user: User, project: Project, name: str, settings: CurationSettings) -> Filter:
    """Keep settings under a name, in the place of those that had it. Raises PermissionDenied, ConfigError."""
    require_editor(user, project)
    name = storable(name.strip())
    if not 0 < len(name) <= 200:
        raise ConfigError("Give the filter a name of 1 to 200 characters.", path=("name",))
    values = {"settings": settings.model_dump(mode="json"), "created_by": user, "updated_at": now()}
    with transaction.atomic():
        earlier = Filter.objects.filter(project=project, name=name).first()
        saved, _ = Filter.objects.update_or_create(project=project, name=name, defaults=values)
        record(user, "saved", saved, before=facts(earlier) if earlier else None, after=facts(saved))
    return saved


def delete_filter(*, user: User, saved: Filter) -> None:
    """What was published with it stays. Raises PermissionDenied."""
    require_editor(user, saved.project)
    with transaction.atomic():
        record(user, "deleted", saved, before=facts(saved))
        saved.delete()


class _Publication:
    """A selection on its way to become a version. `order`: by split, in the order of the file, places in the selection.
    `curation` after `record`."""

    curation: Curation

    def __init__(
        self,
        user: User,
        project: Project,
        sources: Sources,
        settings: CurationSettings,
        selection: Selection,
        name: str,
        split_names: SplitNames,
    ) -> None:
        self.user, self.project, self.sources, self.settings, self.selection = user, project, sources, settings, selection
        self.name = name
        held_out = selection.is_validation
        self.order = {split_names.train: np.flatnonzero(~held_out)}
        if settings.val_fraction:
            self.order[split_names.held_out] = np.flatnonzero(held_out)
        self._task_keys = _task_keys(sources)

    def rows(self, places: Integers) -> Iterator[Row]:
        return rows_of(self.sources, self.selection, places.tolist())

    def stage(self, draft: DatasetVersion) -> None:
        """The source of every row. Raises DataError when somebody deletes the dataset meanwhile."""
        self._write_sources(draft)

    def record(self, version: DatasetVersion) -> None:
        """Inside the transaction that makes the version."""
        values = self.settings.model_dump(mode="json")
        told_apart_by = json.dumps([_telling(values), sorted(self.sources.pool.runs)], sort_keys=True)
        fingerprint = hashlib.sha256(told_apart_by.encode()).hexdigest()
        known = Curation.objects.filter(dataset_version=version, fingerprint=fingerprint).first()
        if known is not None:
            self.curation = known
            return
        self.curation = Curation.objects.create(
            project=self.project,
            created_by=self.user,
            name=self.name,
            settings=values,
            sources=[_source(run) for run in self.sources.runs],
            dataset_version=version,
            dataset_reference=version.reference,
            fingerprint=fingerprint,
            counts=self.selection.preview.counts() | {"skipped": self.selection.preview.skipped},
        )
        self.curation.eval_runs.set(self.sources.runs)
        record(self.user, "published", self.curation, after=facts(self.curation))
        if not CuratedRow.objects.filter(version=version).exists():
            self._write_sources(version)

    def _write_sources(self, version: DatasetVersion) -> None:
        """Tuples instead of model rows, which take three times as long."""
        chosen = "" if self.selection.rejected is None else Side.CHOSEN.value
        self._write_side(version, chosen, self.selection.attempts, self.selection.score)
        if self.selection.rejected is not None and self.selection.rejected_score is not None:
            self._write_side(version, Side.REJECTED.value, self.selection.rejected, self.selection.rejected_score)

    def _write_side(self, version: DatasetVersion, side: str, attempts_R: Integers, score_R: Floats) -> None:
        pool, first = self.sources.pool, 0
        run_keys = np.array([run.pk for run in self.sources.runs], np.int64)
        for split, places in self.order.items():
            attempts = attempts_R[places]
            columns = (
                *(range(first, first + len(places)), run_keys[pool.run[attempts]].tolist(), self._task_keys[attempts].tolist()),
                *(pool.ids[attempts].tolist(), pool.number[attempts].tolist(), score_R[places].tolist()),
            )
            rows = ((version.pk, split, side, *values) for values in zip(*columns, strict=True))
            while batch := list(islice(rows, ROWS_PER_INSERT)):
                _insert(version, batch)
            first += len(places)


@transaction.atomic
def _insert(version: DatasetVersion, rows: Sequence[tuple[Any, ...]]) -> None:
    """One transaction of many: everyone else may write between them."""
    hold(version)
    with connection.cursor() as cursor:
        cursor.executemany(INSERT_SOURCE.format(table=connection.ops.quote_name(CuratedRow._meta.db_table)), rows)


def nothing_to_publish(settings: CurationSettings) -> str:
    """Why there is no row."""
    if settings.rows is Rows.PAIRS:
        return "Nothing to publish: no kept task has a reply that passes and another one that does not."
    return "Nothing to publish: no attempt passes the filter and the selection."


def _telling(values: dict[str, Any]) -> dict[str, Any]:
    """Of dumped settings those that say what is published: what is about pairs says nothing where there are none."""
    without = {"rows", "max_pairs"} if values["rows"] == Rows.ATTEMPTS else set()
    return {name: value for name, value in values.items() if name not in without}


def _task_keys(sources: Sources) -> Integers:
    """(A,) the EvalTask of each attempt of the pool."""
    pool = sources.pool
    found = EvalTask.objects.filter(eval_run__in=sources.runs).values_list("eval_run_id", "task_id", "pk")
    by_name = {(run, task_id): pk for run, task_id, pk in found.iterator(chunk_size=5000)}
    of_run = np.zeros((len(sources.runs), pool.num_tasks), np.int64)
    for at, run in enumerate(sources.runs):
        of_run[at] = [by_name.get((run.pk, task.task_id), 0) for task in pool.tasks]
    keys: Integers = of_run[pool.run, pool.task]
    return keys


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
