"""The benchmark that comes with EvSys, so that a newcomer's first eval is a click."""

from __future__ import annotations

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_starter_tasks
from evsys_web.evals.actions import benchmark_of
from evsys_web.evals.models import Benchmark

STARTER_BENCHMARK = "Starter sums"


def import_starter_benchmark(project: Project, user: User) -> Benchmark:
    """The bundled tasks with a numeric verifier; what is there already when asked again."""
    version = import_starter_tasks(project, user)
    is_taken = Benchmark.objects.filter(project=project, name=STARTER_BENCHMARK).exists()
    return benchmark_of(
        user=user,
        project=project,
        dataset_version=version,
        verifier={"kind": "numeric"},
        name="" if is_taken else STARTER_BENCHMARK,
    )
