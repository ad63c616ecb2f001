"""`/api/v1/benchmarks`: tasks with the verifier that judges replies to them."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Status
from pydantic import ValidationError

from evsys_web.accounts.models import Project
from evsys_web.api.auth import caller
from evsys_web.api.bodies import TextBody
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.datasets.models import Dataset
from evsys_web.evals import actions
from evsys_web.evals.models import Benchmark
from evsys_web.evals.schemas import BenchmarkOut, benchmark_body
from evsys_web.runs.schemas import read_body, refused

router = Router(tags=["benchmarks"])
CREATE_BODY = TextBody(benchmark_body)


@router.post("", response={201: BenchmarkOut}, summary="Make a benchmark", openapi_extra={"requestBody": CREATE_BODY})
@idempotent
def create_benchmark(request: HttpRequest) -> Status[Benchmark]:
    """From JSON or YAML. The first tasks are tried on the verifier; those that do not fit are named."""
    try:
        body: Any = benchmark_body().model_validate(read_body(request))
    except ValidationError as error:
        raise refused(error) from None
    user = caller(request)
    if body.project is None:
        project = user.default_project()
    else:
        project = get_object_or_404(Project.objects.visible_to(user), pk=body.project)
    benchmark = actions.create_benchmark(
        user=user,
        project=project,
        name=body.name,
        description=body.description,
        dataset_version=Dataset.objects.resolve(body.dataset, user, project=project),
        verifier=body.verifier.model_dump(mode="json"),
        split=body.split,
    )
    return Status(201, benchmark)


@router.get("", response=Page[BenchmarkOut], summary="List benchmarks, newest first")
def list_benchmarks(request: HttpRequest, query: Query[PageQuery]) -> Slice:
    return paginate(Benchmark.objects.visible_to(caller(request)), query)


@router.get("/{int:benchmark_id}", response=BenchmarkOut, summary="One benchmark")
def get_benchmark(request: HttpRequest, benchmark_id: int) -> Benchmark:
    return _benchmark(request, benchmark_id)


@router.delete("/{int:benchmark_id}", response={204: None}, summary="Delete a benchmark; its eval runs stay")
def delete_benchmark(request: HttpRequest, benchmark_id: int) -> Status[None]:
    actions.delete_benchmark(user=caller(request), benchmark=_benchmark(request, benchmark_id))
    return Status(204, None)


def _benchmark(request: HttpRequest, benchmark_id: int) -> Benchmark:
    found: Benchmark = Benchmark.objects.visible_to(caller(request)).select_related("project").get(pk=benchmark_id)
    return found
