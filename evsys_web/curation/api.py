"""`/api/v1/curations`, `/api/v1/filters`, and lineage both ways, beside what each is of."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Status

from evsys_web.accounts.models import Project, User
from evsys_web.api.auth import caller
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, Slice, paginate
from evsys_web.curation import actions
from evsys_web.curation.forms import curatable
from evsys_web.curation.lineage import places_of_task, sources_of
from evsys_web.curation.models import CuratedRow, Curation, Filter
from evsys_web.curation.pair_samples import sample_pairs
from evsys_web.curation.pools import open_sources
from evsys_web.curation.reading import Progress, still_reading
from evsys_web.curation.samples import sample_sides
from evsys_web.curation.schemas import (
    AttemptLineageOut,
    CurationIn,
    CurationOut,
    FilterIn,
    FilterOut,
    PreviewIn,
    PreviewOut,
    PreviewQuery,
    ProjectQuery,
    PublishedOut,
    ReadingOut,
    RowLineageOut,
)
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalRun, visible_eval
from recipes.curation import preview
from recipes.errors import ConfigError

router = Router(tags=["curation"])
filters = Router(tags=["curation"])
of_attempts = Router(tags=["curation"])
of_rows = Router(tags=["curation"])


@router.post("/preview", response={200: PreviewOut, 202: ReadingOut}, summary="What settings would keep; nothing is stored")
def preview_curation(request: HttpRequest, body: PreviewIn, query: Query[PreviewQuery]) -> dict[str, Any] | Status[Progress]:
    """The first preview of a large eval reads its attempts, 10,000 in about a second."""
    runs = _runs(caller(request), body.eval_runs)
    if not query.wait and (progress := still_reading(runs)) is not None:
        return Status(202, progress)
    sources = open_sources(runs)
    found = preview(sources.pool, body.settings)
    sides = sample_sides(sources, body.settings, found)
    return {
        "counts": found.counts(),
        "skipped": found.skipped,
        "holdout_error": found.holdout_error,
        "histogram": found.histogram,
        "inside": sides.inside,
        "outside": sides.outside,
        "pairs": sample_pairs(sources, body.settings),
        "metrics": sources.pool.metrics,
    }


@router.post("", response={200: PublishedOut, 201: PublishedOut}, summary="Publish the selected attempts as a dataset version")
@idempotent
def create_curation(request: HttpRequest, body: CurationIn) -> Status[actions.Published]:
    """The same eval runs and settings give the same version again."""
    user = caller(request)
    runs = _runs(user, body.eval_runs)
    published = actions.publish(
        user=user,
        project=runs[0].project,
        eval_runs=runs,
        settings=body.settings,
        name=body.name,
        description=body.description,
        split_names=actions.SplitNames(body.split, body.val_split),
    )
    return Status(201 if published.created else 200, published)


@router.get("", response=Page[CurationOut], summary="List curations, newest first")
def list_curations(request: HttpRequest, query: Query[ProjectQuery]) -> Slice:
    return paginate(_of_project(Curation.objects.visible_to(caller(request)).select_related("created_by"), query), query)


@router.get("/{int:curation_id}", response=CurationOut, summary="One curation: what made a dataset version")
def get_curation(request: HttpRequest, curation_id: int) -> Curation:
    found: Curation = get_object_or_404(Curation.objects.visible_to(caller(request)), pk=curation_id)
    return found


@filters.post("", response={201: FilterOut}, summary="Save settings under a name, in the place of those that had it")
@idempotent
def create_filter(request: HttpRequest, body: FilterIn) -> Status[Filter]:
    user = caller(request)
    visible = Project.objects.visible_to(user)
    project = user.default_project() if body.project is None else get_object_or_404(visible, pk=body.project)
    return Status(201, actions.save_filter(user=user, project=project, name=body.name, settings=body.settings))


@filters.get("", response=Page[FilterOut], summary="List saved filters, newest first")
def list_filters(request: HttpRequest, query: Query[ProjectQuery]) -> Slice:
    return paginate(_of_project(Filter.objects.visible_to(caller(request)), query), query)


@filters.get("/{int:filter_id}", response=FilterOut, summary="One saved filter")
def get_filter(request: HttpRequest, filter_id: int) -> Filter:
    return _filter(request, filter_id)


@filters.delete("/{int:filter_id}", response={204: None}, summary="Delete a saved filter; what was published with it stays")
def delete_filter(request: HttpRequest, filter_id: int) -> Status[None]:
    actions.delete_filter(user=caller(request), saved=_filter(request, filter_id))
    return Status(204, None)


@of_attempts.get(
    "/{int:run_id}/tasks/{int:position}/attempts/{int:attempt}/lineage",
    response=AttemptLineageOut,
    summary="Which datasets, runs and checkpoints learned from an attempt",
)
def attempt_lineage(request: HttpRequest, run_id: int, position: int, attempt: int) -> dict[str, Any]:
    user = caller(request)
    run = visible_eval(user, run_id)
    task = get_object_or_404(run.tasks, position=position)
    if not task.attempts.filter(attempt=attempt).exists():
        raise Http404
    return {
        "eval_run_id": run.pk,
        "model": run.model_label,
        "checkpoint_id": run.checkpoint_id,
        "task_id": task.task_id,
        "attempt": attempt,
        "datasets": places_of_task(task, user).get(attempt, []),
    }


@of_rows.get(
    "/versions/{int:version_id}/rows/{int:row}/lineage",
    response=RowLineageOut,
    summary="Which attempt, eval run and model a curated row comes from; rows count from 0",
)
def row_lineage(request: HttpRequest, version_id: int, row: int) -> dict[str, Any]:
    version = get_object_or_404(DatasetVersion.objects.ready().visible_to(caller(request)), pk=version_id)
    found = sources_of(version, [row])
    if not found:
        raise Http404
    source, *other = found
    return {
        "row": source.position,
        "split": source.split,
        **_source(source),
        "rejected": _source(other[0]) if other else None,
    }


def _source(source: CuratedRow) -> dict[str, Any]:
    run, task = source.eval_run, source.task
    return {
        "eval_run_id": source.eval_run_id,
        "model": run.model_label if run else None,
        "checkpoint_id": run.checkpoint_id if run else None,
        "task_position": task.position if task else None,
        "task_id": task.task_id if task else None,
        "attempt": source.number,
        "score": source.score,
    }


def _runs(user: User, asked: list[int]) -> list[EvalRun]:
    """In the order asked. Raises ConfigError for one that has no verdict yet, Http404 for one that the user may not see."""
    visible = EvalRun.objects.visible_to(user).filter(pk__in=asked).values_list("pk", flat=True)
    if set(asked) - set(visible):
        raise Http404
    runs = curatable(user).in_bulk(asked)
    for place, pk in enumerate(asked):
        if pk not in runs:
            raise ConfigError(f"Eval run {pk} has no attempt with a verdict yet.", path=("eval_runs", place))
    if len({run.project_id for run in runs.values()}) > 1:
        raise ConfigError("Choose eval runs of one project.", path=("eval_runs",))
    return [runs[pk] for pk in dict.fromkeys(asked)]


def _filter(request: HttpRequest, filter_id: int) -> Filter:
    found: Filter = get_object_or_404(Filter.objects.visible_to(caller(request)).select_related("project"), pk=filter_id)
    return found


def _of_project(rows: QuerySet[Any], query: ProjectQuery) -> QuerySet[Any]:
    return rows if query.project is None else rows.filter(project=query.project)
