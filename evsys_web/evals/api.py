"""`/api/v1/evals`: everything that the eval pages can do."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Status

from evsys_web.accounts.models import Project, User
from evsys_web.api.auth import caller
from evsys_web.api.bodies import TextBody
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.evals import actions, live
from evsys_web.evals.comparison import RunsCompared
from evsys_web.evals.estimates import estimate_for
from evsys_web.evals.models import Attempt, Benchmark, EvalRun, EvalTask, visible_eval
from evsys_web.evals.schemas import (
    AttemptOut,
    AttemptQuery,
    CompareQuery,
    EvalDetail,
    EvalEstimateOut,
    EvalEventOut,
    EvalOut,
    EvalQuery,
    EvalRequest,
    TaskOut,
    TaskQuery,
    eval_body,
)
from evsys_web.runs.schemas import read_body
from recipes.config import DataConfig
from recipes.errors import ConfigError
from recipes.eval_config import VerifierChoice
from recipes.eval_estimate import EvalEstimate

router = Router(tags=["evals"])
CREATE_BODY = TextBody(eval_body)


@router.post("", response={201: EvalDetail}, summary="Launch an eval run", openapi_extra={"requestBody": CREATE_BODY})
@idempotent
def create_eval(request: HttpRequest) -> Status[EvalRun]:
    """From JSON or YAML. Name a `benchmark`, or `data.dataset` and `verifier`: the benchmark of both is found, or made."""
    asked, user = EvalRequest(read_body(request)), caller(request)
    benchmark = _benchmark_for(user, asked)
    run = actions.launch_eval(
        user=user,
        project=benchmark.project,
        config=asked.config,
        benchmark=benchmark,
        auto_resume=asked.auto_resume,
    )
    return Status(201, run)


@router.get("", response=Page[EvalOut], summary="List eval runs, newest first")
def list_evals(request: HttpRequest, query: Query[EvalQuery]) -> Slice:
    runs = EvalRun.objects.visible_to(caller(request)).defer("error_detail")
    if query.status:
        runs = runs.filter(status__in=query.status)
    if query.project is not None:
        runs = runs.filter(project=query.project)
    if query.benchmark is not None:
        runs = runs.filter(benchmark=query.benchmark)
    return paginate(runs, query)


@router.post(
    "/estimate",
    response=EvalEstimateOut,
    summary="What an eval would take; starts nothing",
    openapi_extra={"requestBody": CREATE_BODY},
)
def estimate(request: HttpRequest) -> EvalEstimate:
    """Of the same body; no benchmark is made."""
    asked, user = EvalRequest(read_body(request)), caller(request)
    tasks = _tasks_of(user, asked)
    actions.refuse_other_than_tasks(tasks.version)
    chosen = {"data": DataConfig(dataset=tasks.version.reference, split=tasks.split), "verifier": tasks.verifier}
    return estimate_for(asked.config.model_copy(update=chosen), tasks.version, user)


@router.get("/compare", summary="Two eval runs on their common tasks: differences, p-value, newly solved and broken tasks")
def compare_evals(request: HttpRequest, query: Query[CompareQuery]) -> dict[str, Any]:
    """Tasks that trained either model (`is_leaked`) are left out: `num_leaked` of those in common."""
    compared = RunsCompared(_run(request, query.a), _run(request, query.b))
    return compared.comparison.as_json() | {"num_leaked": compared.num_leaked}


@router.get("/{int:run_id}", response=EvalDetail, summary="One eval run, with its config")
def get_eval(request: HttpRequest, run_id: int) -> EvalRun:
    return _run(request, run_id)


@router.delete("/{int:run_id}", response={204: None}, summary="Delete an eval run that is not running, with its attempts")
def delete_eval(request: HttpRequest, run_id: int) -> Status[None]:
    actions.delete_eval(user=caller(request), run=_run(request, run_id))
    return Status(204, None)


@router.post("/{int:run_id}/stop", response=EvalDetail, summary="Stop; attempts in flight get a few seconds")
def stop_eval(request: HttpRequest, run_id: int) -> EvalRun:
    return actions.stop_eval(user=caller(request), run=_run(request, run_id))


@router.post("/{int:run_id}/resume", response=EvalDetail, summary="Make the attempts that are missing or ended in an error")
def resume_eval(request: HttpRequest, run_id: int) -> EvalRun:
    return actions.resume_eval(user=caller(request), run=_run(request, run_id))


@router.post("/{int:run_id}/retry-errors", response=EvalDetail, summary="Try again what ended in an error, even if completed")
def retry_errors(request: HttpRequest, run_id: int) -> EvalRun:
    return actions.retry_errors(user=caller(request), run=_run(request, run_id))


@router.get("/{int:run_id}/config.yaml", summary="The config as YAML")
def get_config(request: HttpRequest, run_id: int) -> HttpResponse:
    run = _run(request, run_id)
    if run.is_imported:
        raise ConfigError("These attempts were made elsewhere and imported; there is no config.")
    return HttpResponse(run.load_config().to_yaml(), content_type="application/yaml; charset=utf-8")


@router.get("/{int:run_id}/summary", summary="avg, pass@k and pass^k with 95 % intervals")
def get_summary(request: HttpRequest, run_id: int) -> dict[str, Any]:
    """At most a few seconds behind the attempts while it runs; empty while there is none. Intervals are clustered by task."""
    summary: dict[str, Any] = _run(request, run_id).summary
    return summary


@router.get("/{int:run_id}/stream", summary="Changed tasks, events and status as server-sent events")
def stream_eval(request: HttpRequest, run_id: int, after: int = 0) -> HttpResponseBase:
    """Begins after `Last-Event-ID`, or `after`. Ends with the run."""
    return live.stream(request, _run(request, run_id))


@router.get("/{int:run_id}/events", response=Page[EvalEventOut], summary="What happened, newest first")
def list_events(request: HttpRequest, run_id: int, query: Query[PageQuery]) -> Slice:
    return paginate(_run(request, run_id).events.all(), query, by="seq")


@router.get("/{int:run_id}/tasks", response=Page[TaskOut], summary="Every task with what its attempts add up to")
def list_tasks(request: HttpRequest, run_id: int, query: Query[TaskQuery]) -> Slice:
    tasks: QuerySet[EvalTask] = _run(request, run_id).tasks.all()
    if query.outcome:
        tasks = tasks.filter(outcome__in=query.outcome)
    if query.with_errors:
        tasks = tasks.filter(num_errors__gt=0)
    if query.leaked is not None:
        tasks = tasks.filter(is_leaked=query.leaked)
    by = query.sort.removeprefix("-")
    if by == "accuracy":
        tasks = tasks.filter(accuracy__isnull=False)
    return paginate(tasks, query, by=by, tie="position", ascending=not query.sort.startswith("-"))


@router.get("/{int:run_id}/tasks/{int:position}", response=TaskOut, summary="One task")
def get_task(request: HttpRequest, run_id: int, position: int) -> EvalTask:
    return _task(request, run_id, position)


@router.get("/{int:run_id}/tasks/{int:position}/attempts", response=Page[AttemptOut], summary="Attempts, with conversations")
def list_attempts(request: HttpRequest, run_id: int, position: int, query: Query[AttemptQuery]) -> Slice:
    attempts: QuerySet[Attempt] = _task(request, run_id, position).attempts.all()
    return paginate(attempts, query, by="attempt", ascending=True)


def _run(request: HttpRequest, run_id: int) -> EvalRun:
    return visible_eval(caller(request), run_id)


def _task(request: HttpRequest, run_id: int, position: int) -> EvalTask:
    task: EvalTask = get_object_or_404(_run(request, run_id).tasks, position=position)
    return task


class Tasks(NamedTuple):
    """What an eval is about: those of a benchmark that there is, or of one that is not made yet."""

    benchmark: Benchmark | None
    version: DatasetVersion
    split: str | None
    verifier: VerifierChoice


def _tasks_of(user: User, asked: EvalRequest) -> Tasks:
    """Those of the benchmark or the dataset that is named. Raises ConfigError, Benchmark.DoesNotExist."""
    if asked.benchmark_id is not None:
        if asked.dataset is not None:
            raise ConfigError("A benchmark brings its tasks: leave data away, or the benchmark.", path=("data",))
        found = Benchmark.objects.visible_to(user).select_related("project", "dataset_version__dataset")
        benchmark: Benchmark = found.get(pk=asked.benchmark_id)
        if asked.project_id not in (None, benchmark.project_id):
            raise ConfigError("Choose a benchmark of this project.", path=("benchmark",))
        if benchmark.dataset_version is None:
            raise ConfigError(f"The tasks of this benchmark ({benchmark.dataset_reference}) were deleted.", path=("benchmark",))
        verifier = VerifierChoice.model_validate(benchmark.verifier)
        return Tasks(benchmark, benchmark.dataset_version, benchmark.split or None, verifier)
    if asked.dataset is None:
        raise ConfigError("Name a benchmark, or data.dataset and a verifier.", path=("benchmark",))
    if asked.project_id is None:
        project = user.default_project()
    else:
        project = get_object_or_404(Project.objects.visible_to(user), pk=asked.project_id)
    version = Dataset.objects.resolve(asked.dataset, user, project=project)
    return Tasks(None, version, asked.config.data.split, VerifierChoice.model_validate(asked.verifier))


def _benchmark_for(user: User, asked: EvalRequest) -> Benchmark:
    """The one that is named, or the one of the named tasks and verifier, made if there is none. Raises as `_tasks_of`."""
    tasks = _tasks_of(user, asked)
    return tasks.benchmark or actions.benchmark_of(
        user=user,
        project=tasks.version.dataset.project,
        dataset_version=tasks.version,
        verifier=tasks.verifier.model_dump(),
        split=tasks.split,
    )
