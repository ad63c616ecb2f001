"""`/api/v1/sweeps`: everything that the pages of sweeps can do."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status

from evsys_web.accounts.models import Project, User
from evsys_web.api.auth import caller
from evsys_web.api.bodies import TextBody
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, Slice, paginate
from evsys_web.attachments import attachment
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.runs.schemas import read_body
from evsys_web.runs.snippets import yaml_of
from evsys_web.sweeps import actions
from evsys_web.sweeps.estimates import SweepEstimate, estimate_sweep
from evsys_web.sweeps.models import Sweep, visible_sweep
from evsys_web.sweeps.results import csv_chunks, table_of
from evsys_web.sweeps.schemas import (
    ResultQuery,
    ResultsOut,
    SweepDetail,
    SweepEstimateOut,
    SweepOut,
    SweepQuery,
    SweepRequest,
    results_of,
    sweep_body,
)
from recipes.sweep_config import SweepConfig

router = Router(tags=["sweeps"])
CREATE_BODY = TextBody(sweep_body)


class ActedOut(Schema):
    num_runs: int


@router.post("", response={201: SweepDetail}, summary="Launch a sweep", openapi_extra={"requestBody": CREATE_BODY})
@idempotent
def create_sweep(request: HttpRequest) -> Status[Sweep]:
    """A run's settings, and a matrix of axes × seeds: all of its runs are queued, or none. From JSON or YAML."""
    asked, user = SweepRequest(read_body(request)), caller(request)
    project, version = _place(user, asked)
    sweep = actions.launch_sweep(
        user=user, project=project, config=asked.config, dataset_version=version, auto_resume=asked.auto_resume
    )
    return Status(201, visible_sweep(user, sweep.pk))


@router.get("", response=Page[SweepOut], summary="List sweeps, newest first")
def list_sweeps(request: HttpRequest, query: Query[SweepQuery]) -> Slice:
    sweeps = Sweep.objects.visible_to(caller(request)).with_counts()
    if query.project is not None:
        sweeps = sweeps.filter(project=query.project)
    return paginate(sweeps, query)


@router.post(
    "/estimate",
    response=SweepEstimateOut,
    summary="How many runs a sweep makes, and what they would take; starts nothing",
    openapi_extra={"requestBody": CREATE_BODY},
)
def estimate(request: HttpRequest) -> SweepEstimate:
    asked, user = SweepRequest(read_body(request)), caller(request)
    _, version = _place(user, asked)
    return estimate_sweep(asked.config, version, user)


@router.get("/{int:sweep_id}", response=SweepDetail, summary="One sweep, with its runs")
def get_sweep(request: HttpRequest, sweep_id: int) -> Sweep:
    return visible_sweep(caller(request), sweep_id)


@router.delete("/{int:sweep_id}", response={204: None}, summary="Delete a sweep with its runs, when none waits or runs")
def delete_sweep(request: HttpRequest, sweep_id: int) -> Status[None]:
    actions.delete_sweep(user=caller(request), sweep=visible_sweep(caller(request), sweep_id))
    return Status(204, None)


@router.get("/{int:sweep_id}/results", response=ResultsOut, summary="Mean and deviation over seeds per combination")
def get_results(request: HttpRequest, sweep_id: int, query: Query[ResultQuery]) -> Any:
    """Of the completed runs' last values. As CSV with `format=csv`."""
    sweep = visible_sweep(caller(request), sweep_id)
    table = table_of(sweep, asked=query.metric, sort=query.sort)
    if query.format == "csv":
        return attachment(csv_chunks(table), f"sweep-{sweep.pk}.csv", content_type="text/csv; charset=utf-8")
    return results_of(table)


@router.post("/{int:sweep_id}/stop", response=ActedOut, summary="Stop what waits and runs; asked twice, at once")
def stop_sweep(request: HttpRequest, sweep_id: int) -> dict[str, int]:
    user = caller(request)
    return {"num_runs": actions.stop_sweep(user=user, sweep=visible_sweep(user, sweep_id))}


@router.post("/{int:sweep_id}/resume", response=ActedOut, summary="Queue the runs again that did not complete")
def resume_sweep(request: HttpRequest, sweep_id: int) -> dict[str, int]:
    user = caller(request)
    return {"num_runs": actions.resume_sweep(user=user, sweep=visible_sweep(user, sweep_id))}


@router.get("/{int:sweep_id}/config.yaml", summary="The config as YAML")
def get_config(request: HttpRequest, sweep_id: int) -> HttpResponse:
    sweep = visible_sweep(caller(request), sweep_id)
    return HttpResponse(yaml_of(SweepConfig, sweep.config), content_type="application/yaml; charset=utf-8")


def _place(user: User, asked: SweepRequest) -> tuple[Project, DatasetVersion]:
    if asked.project_id is None:
        project = user.default_project()
    else:
        project = get_object_or_404(Project.objects.visible_to(user), pk=asked.project_id)
    return project, Dataset.objects.resolve(asked.config.data.dataset or "", user, project=project)
