"""Which tasks a cycle learns from and is judged by: found, or made, and refused where the two share one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import Dataset
from evsys_web.evals.actions import benchmark_of
from evsys_web.evals.models import Benchmark
from recipes.config import below
from recipes.curation.holdout import check_sides, places_of
from recipes.cycle_config import CycleConfig, Side, TasksChoice
from recipes.errors import ConfigError
from recipes.eval_config import VerifierChoice
from recipes.prompts import prompt_key
from recipes.types import Row


def benchmark_for(*, user: User, project: Project, choice: TasksChoice, side: Side) -> Benchmark:
    """The benchmark that is named, or that of the named tasks and verifier. Raises ConfigError, DataError with a path below the
    side."""
    if choice.path is not None:
        raise ConfigError(
            "Files are read by the command alone. Upload the tasks, and name the dataset here.", path=(side, "path")
        )
    if choice.benchmark is not None:
        return _named(project, choice.benchmark, side)
    verifier = choice.verifier or VerifierChoice()
    try:
        version = Dataset.objects.resolve(choice.dataset or "", user, project=project)
        return benchmark_of(
            user=user, project=project, dataset_version=version, verifier=verifier.model_dump(), split=choice.split
        )
    except ConfigError as error:
        place = error.path[1:] if error.path[:1] == ("data",) else error.path
        raise ConfigError(str(error), path=(side, *place)) from None


def spelled_out(benchmark: Benchmark, choice: TasksChoice) -> TasksChoice:
    """The same tasks and verifier by dataset version, so that the config says all of it wherever it is taken."""
    assert benchmark.dataset_version is not None
    verifier = VerifierChoice.model_validate(benchmark.verifier)
    return TasksChoice(
        dataset=benchmark.dataset_version.reference,
        split=benchmark.split or None,
        verifier=verifier,
        max_tasks=choice.max_tasks,
    )


def refuse_unfit_sides(config: CycleConfig, learn: Benchmark, judge: Benchmark) -> None:
    """Raises ConfigError where a task stands on both sides, or the validation split could only be empty, or everything."""
    shared = _shared(list(_rows(learn, config.learn)), _rows(judge, config.judge), same=_is_same_dataset(learn, judge))
    if shared:
        tasks = "1 task stands" if len(shared) == 1 else f"{len(shared):,} tasks stand"
        raise ConfigError(
            f"{tasks} on both sides, so that the model would be judged by what it learned from; the first is {shared[0]!r}. "
            "Choose other tasks to judge by.",
            path=("judge",),
        )
    settings = config.curation
    places = places_of([row["task_id"] for row in _rows(learn, config.learn)], settings.seed)
    num_held_out = int((places < settings.val_fraction).sum())
    with below("curation"):
        check_sides(len(places) - num_held_out, num_held_out, settings.val_fraction)


def _named(project: Project, name: str, side: Side) -> Benchmark:
    """By name, else by id."""
    within = Benchmark.objects.filter(project=project).select_related("dataset_version__dataset")
    found: Benchmark | None = within.filter(name=name).first()
    if found is None and name.isascii() and name.isdecimal() and len(name) < 19:
        found = within.filter(pk=int(name)).first()
    if found is None:
        raise ConfigError(f"There is no benchmark {name!r} in this project.", path=(side, "benchmark"))
    return found


def _rows(benchmark: Benchmark, choice: TasksChoice) -> Iterator[Row]:
    assert benchmark.dataset_version is not None
    return islice(benchmark.dataset_version.read_rows(benchmark.split or None), choice.max_tasks)


def _is_same_dataset(learn: Benchmark, judge: Benchmark) -> bool:
    assert learn.dataset_version is not None and judge.dataset_version is not None
    return bool(learn.dataset_version.dataset_id == judge.dataset_version.dataset_id)


def _shared(learn: list[Row], judge: Iterator[Row], *, same: bool) -> list[str]:
    """Ids of the tasks to judge by that are learned from: with the same prompt, or (versions of one dataset) the same id. Ids of
    different datasets say nothing: half of them count from 0."""
    prompts = {prompt_key(row["messages"]) for row in learn} - {None}
    ids = {row["task_id"] for row in learn} if same else set()
    return [str(row["task_id"]) for row in judge if row["task_id"] in ids or prompt_key(row["messages"]) in prompts]
