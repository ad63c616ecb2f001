"""The benchmarks that come with EvSys, so that a newcomer's first eval, or first cycle, is a click."""

from __future__ import annotations

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import STARTER_HELD_OUT, STARTER_LEARNING, StarterTasks, import_starter_tasks
from evsys_web.evals.actions import benchmark_of
from evsys_web.evals.models import Benchmark

STARTER_BENCHMARK = "Starter sums"
STARTER_LEARNING_BENCHMARK = "Starter sums to learn from"


def import_starter_benchmark(project: Project, user: User) -> Benchmark:
    """The bundled held-out tasks with a numeric verifier; what is there already when asked again."""
    return _import(project, user, STARTER_HELD_OUT, STARTER_BENCHMARK)


def import_starter_learning_benchmark(project: Project, user: User) -> Benchmark:
    """The bundled tasks to learn from, none of which is held out; what is there already when asked again."""
    return _import(project, user, STARTER_LEARNING, STARTER_LEARNING_BENCHMARK)


def _import(project: Project, user: User, tasks: StarterTasks, name: str) -> Benchmark:
    is_taken = Benchmark.objects.filter(project=project, name=name).exists()
    return benchmark_of(
        user=user,
        project=project,
        dataset_version=import_starter_tasks(project, user, tasks),
        verifier={"kind": "numeric"},
        name="" if is_taken else name,
    )
