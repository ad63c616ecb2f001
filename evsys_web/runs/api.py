"""`/api/v1/runs`: everything that the run pages can do, and points from runs that are trained elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.timezone import now
from ninja import Body, Query, Router, Schema, Status
from pydantic import Field

from evsys_web.accounts.models import Project
from evsys_web.api.auth import caller
from evsys_web.api.bodies import TextBody
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.datasets.models import Dataset
from evsys_web.runs import actions, downloads, live, metrics, models
from evsys_web.runs.backends import without_consents
from evsys_web.runs.estimates import estimate_run
from evsys_web.runs.metrics import Point
from evsys_web.runs.models import Checkpoint, TrainingRun, visible_run
from evsys_web.runs.rollouts import MAX_STEP, rollouts_of
from evsys_web.runs.schemas import (
    MAX_POINTS,
    CheckpointOut,
    EstimateOut,
    EventOut,
    ExternalRunIn,
    FinishIn,
    LoggedOut,
    MetricsOut,
    PointIn,
    PresetOut,
    RolloutsOut,
    RowId,
    RunDetail,
    RunOut,
    RunRequest,
    merged,
    read_body,
    run_body,
)
from evsys_web.runs.work import storable_json
from recipes.estimate import Estimate
from recipes.presets import recommended
from recipes.registry import algorithms

Points = Annotated[list[PointIn], Field(max_length=MAX_POINTS)]
router = Router(tags=["runs"])
CREATE_BODY = TextBody(run_body)
OVERRIDES_BODY = {
    "required": False,
    "content": {"application/json": {"schema": {"type": "object", "description": "The parts of the config to change."}}},
}


class StepQuery(Schema):
    step: int | None = Field(None, ge=0, le=MAX_STEP, description="Completed optimizer steps; left away, the newest.")


class RunQuery(PageQuery):
    status: list[models.Status] = Field(default_factory=list, description="Only runs in one of these states.")
    project: RowId | None = Field(None, description="Only runs of this project.")


class CurveQuery(Schema):
    key: list[str] = Field(default_factory=list, max_length=100, description="Keys such as train/mean_nll; none for all.")
    x: metrics.Axis = "step"
    start: float | None = Field(None, allow_inf_nan=False, description="Smallest x.")
    stop: float | None = Field(None, allow_inf_nan=False, description="Largest x.")
    points: int = Field(
        1500, ge=2, le=20_000, description="Most buckets per key; each says its smallest, largest and last value."
    )
    format: Literal["json", "csv"] = Field("json", description="csv gives every point and ignores the other parameters.")


@router.post("", response={201: RunDetail}, summary="Launch a run", openapi_extra={"requestBody": CREATE_BODY})
@idempotent
def create_run(request: HttpRequest) -> Status[TrainingRun]:
    """From JSON, or the YAML that `config.yaml` gives."""
    return Status(201, _launch(request, read_body(request)))


@router.post("/external", response={201: RunDetail}, summary="Announce a run that is trained elsewhere")
@idempotent
def create_external_run(request: HttpRequest, body: ExternalRunIn) -> Status[TrainingRun]:
    values = body.model_dump(exclude={"project"})
    project = _project(request, body.project)
    return Status(201, actions.launch_external_run(user=caller(request), project=project, **values))


@router.get("", response=Page[RunOut], summary="List runs, newest first")
def list_runs(request: HttpRequest, query: Query[RunQuery]) -> Slice:
    runs = TrainingRun.objects.visible_to(caller(request)).defer("error_detail")
    if query.status:
        runs = runs.filter(status__in=query.status)
    if query.project is not None:
        runs = runs.filter(project=query.project)
    return paginate(runs, query)


@router.get("/recommended", response=PresetOut, summary="Starting values for a model and an algorithm")
def get_recommended(request: HttpRequest, model: str = "starter", algorithm: str = "sft") -> dict[str, Any]:
    """The same that the form starts from. An algorithm that is not registered is a 422."""
    algorithms.get(algorithm)
    return recommended(model, algorithm)._asdict()


@router.post(
    "/estimate", response=EstimateOut, summary="What a run would take; starts nothing", openapi_extra={"requestBody": CREATE_BODY}
)
def estimate(request: HttpRequest) -> Estimate:
    asked = RunRequest(read_body(request))
    user, project = caller(request), _project(request, asked.project_id)
    version = Dataset.objects.resolve(asked.config.data.dataset or "", user, project=project)
    return estimate_run(asked.config, version, user)


@router.get("/{int:run_id}", response=RunDetail, summary="One run, with its config and last values")
def get_run(request: HttpRequest, run_id: int) -> TrainingRun:
    return _run(request, run_id)


@router.delete("/{int:run_id}", response={204: None}, summary="Delete a run that is not running, with its points and files")
def delete_run(request: HttpRequest, run_id: int) -> Status[None]:
    actions.delete_run(user=caller(request), run=_run(request, run_id))
    return Status(204, None)


@router.post("/{int:run_id}/stop", response=RunDetail, summary="Stop after the current step; asked twice, at once")
def stop_run(request: HttpRequest, run_id: int) -> TrainingRun:
    return actions.stop_run(user=caller(request), run=_run(request, run_id))


@router.post("/{int:run_id}/resume", response=RunDetail, summary="Go on from the newest checkpoint")
def resume_run(request: HttpRequest, run_id: int) -> TrainingRun:
    return actions.resume_run(user=caller(request), run=_run(request, run_id))


@router.post(
    "/{int:run_id}/clone", response={201: RunDetail}, summary="Launch it again", openapi_extra={"requestBody": OVERRIDES_BODY}
)
@idempotent
def clone_run(request: HttpRequest, run_id: int) -> Status[TrainingRun]:
    """The body, if any, is laid over the run's config, for example `{"algorithm": {"params": {"learning_rate": 0.001}}}`.
    What was agreed to be paid by the hour (`backend.params.accept_billing`) is not taken over: agree anew."""
    run = _run(request, run_id)
    overrides = read_body(request) if request.body.strip() else {}
    start = {**without_consents(run.config), "project": run.project_id, "auto_resume": run.auto_resume}
    values = merged(start, overrides) if isinstance(overrides, dict) else overrides
    return Status(201, _launch(request, values, cloned_from=run))


@router.get("/{int:run_id}/config.yaml", summary="The config as YAML")
def get_config(request: HttpRequest, run_id: int) -> HttpResponse:
    return HttpResponse(_run(request, run_id).load_config().to_yaml(), content_type="application/yaml; charset=utf-8")


@router.get("/{int:run_id}/metrics", response=MetricsOut, summary="Curves, thinned out for drawing, or every point as CSV")
def get_metrics(request: HttpRequest, run_id: int, query: Query[CurveQuery]) -> Any:
    run = _run(request, run_id)
    if query.format == "csv":
        return downloads.metrics_csv(run)
    names = query.key or metrics.keys(run)
    curves = metrics.series(run, names, x=query.x, start=query.start, stop=query.stop, max_points=query.points)
    return {"series": {name: curve.as_json() for name, curve in curves.items()}, "last_seq": run.last_seq}


@router.get("/{int:run_id}/metrics/stream", summary="Points, events, checkpoints and status as server-sent events")
def stream_metrics(request: HttpRequest, run_id: int, after: int = 0) -> HttpResponseBase:
    """Begins after `Last-Event-ID`, or `after`. Ends with the run."""
    return live.stream(request, _run(request, run_id))


@router.get("/{int:run_id}/rollouts", response=RolloutsOut, summary="What was sampled at a step of training")
def get_rollouts(request: HttpRequest, run_id: int, query: Query[StepQuery]) -> dict[str, Any]:
    """Of that step, or of the last one before it that has some; left away, of the newest. 404 for a run without any."""
    logged = rollouts_of(_run(request, run_id), query.step)
    if logged is None:
        raise Http404
    found: dict[str, Any] = storable_json(asdict(logged))
    return found


@router.get("/{int:run_id}/events", response=Page[EventOut], summary="What happened, newest first")
def list_events(request: HttpRequest, run_id: int, query: Query[PageQuery]) -> Slice:
    return paginate(_run(request, run_id).events.all(), query, by="seq")


@router.get("/{int:run_id}/checkpoints", response=Page[CheckpointOut], summary="Weights that it saved, newest first")
def list_checkpoints(request: HttpRequest, run_id: int, query: Query[PageQuery]) -> Slice:
    page = paginate(_run(request, run_id).checkpoints.select_related("run"), query, by="step")
    for checkpoint in page.items:
        checkpoint.files = downloads.checkpoint_files(checkpoint)
    return page


@router.get(
    "/{int:run_id}/checkpoints/{int:checkpoint_id}/download", summary="All files of a checkpoint as a zip, or one of them"
)
def download_checkpoint(request: HttpRequest, run_id: int, checkpoint_id: int, file: str = "") -> HttpResponseBase:
    checkpoint = Checkpoint.objects.select_related("run").get(pk=checkpoint_id, run=_run(request, run_id))
    return downloads.checkpoint_download(checkpoint, file)


@router.post("/{int:run_id}/log-batch", response=LoggedOut, summary="Report points of a run that is trained elsewhere")
def log_batch(request: HttpRequest, run_id: int, points: Body[Points]) -> dict[str, int]:
    """May be sent again: of two values for the same step and key the first stays. At most 10,000 points a call."""
    run = _run(request, run_id)
    moment = now()
    batch = [Point(point.step, _aware(point.at) or moment, point.values) for point in points]
    accepted = actions.log_points(user=caller(request), run=run, points=batch)
    repeated = sum(len(point.values) for point in points) - accepted
    return {"accepted": accepted, "repeated": repeated, "last_seq": run.last_seq}


@router.post("/{int:run_id}/finish", response=RunDetail, summary="Say how a run that was trained elsewhere ended")
def finish_run(request: HttpRequest, run_id: int, body: FinishIn) -> TrainingRun:
    run = _run(request, run_id)
    return actions.finish_external_run(user=caller(request), run=run, status=models.Status(body.status), error=body.error)


def _aware(at: datetime | None) -> datetime | None:
    """A time without a zone is UTC."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _run(request: HttpRequest, run_id: int) -> TrainingRun:
    return visible_run(caller(request), run_id)


def _project(request: HttpRequest, project_id: int | None) -> Project:
    """The named project of the caller's, or their first one. Raises Project.DoesNotExist."""
    user = caller(request)
    return Project.objects.visible_to(user).get(pk=project_id) if project_id is not None else user.default_project()


def _launch(request: HttpRequest, values: Any, *, cloned_from: TrainingRun | None = None) -> TrainingRun:
    asked = RunRequest(values)
    user, project = caller(request), _project(request, asked.project_id)
    version = Dataset.objects.resolve(asked.config.data.dataset or "", user, project=project)
    return actions.launch_run(
        user=user,
        project=project,
        config=asked.config,
        dataset_version=version,
        cloned_from=cloned_from,
        auto_resume=asked.auto_resume,
    )
