"""Every write on benchmarks and eval runs that a page, the API and a command share. Each checks that the caller may."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any, cast

from django.db import IntegrityError, transaction

from evsys_web.accounts.actions import require_credential
from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor, require_maker
from evsys_web.addresses import refuse_private
from evsys_web.datasets.models import DatasetVersion, Format, VersionStatus
from evsys_web.evals.models import Benchmark, EvalRun
from evsys_web.evals.tasks import run_eval
from evsys_web.runs.actions import RunRefused, refuse_expired, refuse_foreign_folder
from evsys_web.runs.backends import check_backend, check_model_name
from evsys_web.runs.launches import announce, made_before, queue_once
from evsys_web.runs.leftovers import remove_folder
from evsys_web.runs.models import Checkpoint
from evsys_web.runs.turns import refuse_full_queue
from evsys_web.runs.work import storable
from recipes.config import DataConfig
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig, VerifierChoice
from recipes.evals.runner import refuse_unfit
from recipes.registry import verifiers
from recipes.types import Task

NUM_TASKS_LOOKED_AT = 1000


def create_benchmark(
    *,
    user: User,
    project: Project,
    name: str,
    dataset_version: DatasetVersion,
    verifier: Mapping[str, Any],
    description: str = "",
    split: str | None = None,
) -> Benchmark:
    """A benchmark of this name, of all tasks or those of a split. Its first tasks are tried on the verifier.
    Raises ConfigError, DataError."""
    require_editor(user, project)
    name = storable(name.strip())
    if not 0 < len(name) <= 200:
        raise ConfigError("Give the benchmark a name of 1 to 200 characters.", path=("name",))
    choice = checked_verifier(verifier, dataset_version, project, split)
    taken = ConfigError(f"This project has a benchmark {name!r} already. Choose another name.", path=("name",))
    if Benchmark.objects.filter(project=project, name=name).exists():
        raise taken
    try:
        with transaction.atomic():
            benchmark: Benchmark = Benchmark.objects.create(
                project=project,
                created_by=user,
                name=name,
                description=storable(description.strip())[:2000],
                dataset_version=dataset_version,
                dataset_reference=dataset_version.reference,
                split=split or "",
                verifier=choice.model_dump(mode="json"),
                num_tasks=dataset_version.stretch(split).num_rows,
            )
            record(user, "made", benchmark, after=facts(benchmark))
    except IntegrityError:  # by somebody else, at the same moment
        raise taken from None
    return benchmark


def benchmark_of(
    *,
    user: User,
    project: Project,
    dataset_version: DatasetVersion,
    verifier: Mapping[str, Any],
    name: str = "",
    split: str | None = None,
) -> Benchmark:
    """The project's benchmark of these tasks and this verifier; made, under this name or one drawn from both, when there is none.
    Raises ConfigError, DataError."""
    require_editor(user, project)
    choice = checked_verifier(verifier, dataset_version, project, split)
    values = choice.model_dump(mode="json")
    for benchmark in Benchmark.objects.filter(project=project, dataset_version=dataset_version, split=split or ""):
        if benchmark.verifier == values and name in ("", benchmark.name):
            return cast("Benchmark", benchmark)
    tasks = f"{dataset_version.reference} {split}" if split else dataset_version.reference
    drawn = f"{tasks} {choice.kind.replace('_', ' ')}"[:190]
    taken = set(Benchmark.objects.filter(project=project, name__startswith=drawn).values_list("name", flat=True))
    unique = next(text for text in (drawn, *(f"{drawn} {n}" for n in range(2, len(taken) + 3))) if text not in taken)
    return create_benchmark(
        user=user, project=project, name=name or unique, dataset_version=dataset_version, verifier=values, split=split
    )


def delete_benchmark(*, user: User, benchmark: Benchmark) -> None:
    """Its eval runs stay, and keep what they were made of."""
    require_maker(user, benchmark.project, benchmark.created_by_id)
    with transaction.atomic():
        record(user, "deleted", benchmark, before=facts(benchmark))
        benchmark.delete()


def launch_eval(
    *,
    user: User,
    project: Project,
    config: EvalConfig,
    benchmark: Benchmark,
    checkpoint: Checkpoint | None = None,
    idempotency_key: str | None = None,
    cloned_from: EvalRun | None = None,
    auto_resume: bool = False,
    is_part: bool = False,
) -> EvalRun:
    """Queue an eval run of the benchmark: its tasks and verifier take the place of the config's. checkpoint: where the config's
    weights come from; found by their path when left away. The same key from the same person gives the run that it made the first
    time. is_part: of work that is under way already, which no full queue may end. Raises ConfigError, DataError, or
    PermissionDenied for what is not the caller's."""
    require_editor(user, project)
    if made := made_before(EvalRun, user, idempotency_key):
        return made
    version = benchmark.dataset_version
    if benchmark.project_id != project.pk:
        raise ConfigError("Choose a benchmark of this project.", path=("benchmark",))
    if version is None:
        raise ConfigError(f"The tasks of this benchmark ({benchmark.dataset_reference}) were deleted.", path=("benchmark",))
    split = benchmark.split or None
    verifier = checked_verifier(benchmark.verifier, version, project, split)
    config = config.model_copy(update={"data": DataConfig(dataset=version.reference, split=split), "verifier": verifier})
    config.check()
    checkpoint = _check_model(user, project, config, checkpoint)
    if not is_part:
        refuse_full_queue(project)
    return queue_once(
        EvalRun,
        run_eval,
        user=user,
        key=idempotency_key,
        project=project,
        name=storable(config.name),
        benchmark=benchmark,
        dataset_version=version,
        dataset_reference=version.reference,
        checkpoint=checkpoint,
        config=config.model_dump(mode="json"),
        model_label=storable(_label(config, checkpoint))[:400],
        k=config.attempts,
        num_tasks=min(benchmark.num_tasks, config.max_tasks or benchmark.num_tasks),
        cloned_from=cloned_from,
        auto_resume=auto_resume,
    )


def stop_eval(*, user: User, run: EvalRun) -> EvalRun:
    """A queued run is cancelled at once; of a running one, attempts in flight get a few seconds. Raises RunRefused."""
    require_editor(user, run.project)
    before = run.status
    with transaction.atomic():
        if not run.is_done_here or not run.request_stop():
            raise RunRefused(_standing_sentence(run, "stopped"))
        run.note(f"Stop asked by {user}.")
        record(user, "stopped", run, before={"status": before}, after={"status": run.status})
    return run


def resume_eval(*, user: User, run: EvalRun) -> EvalRun:
    """Queue an ended run again, to make what is missing: attempts with a verdict stay, errors are tried again.
    Raises RunRefused."""
    return _queue_again(user, run, "resumed", even_completed=False)


def retry_errors(*, user: User, run: EvalRun) -> EvalRun:
    """Queue an ended run again, also a completed one, for its attempts that ended in an error; of one that is not
    complete the missing ones are made as well. Raises RunRefused."""
    run.refresh_from_db()
    if run.has_ended and not run.num_errors:
        require_editor(user, run.project)
        raise RunRefused("No attempt of this run ended in an error.")
    return _queue_again(user, run, "retried", even_completed=True)


def delete_eval(*, user: User, run: EvalRun) -> None:
    """Remove the run and its attempts. For whoever started it, and the project's admins. Raises RunRefused."""
    require_maker(user, run.project, run.created_by_id)
    with transaction.atomic():
        locked = EvalRun.objects.select_for_update().filter(pk=run.pk).first()
        if locked is None:
            return
        if locked.is_active:
            raise RunRefused(f"This run is {locked.get_status_display().lower()}. Stop it first, then delete it.")
        record(user, "deleted", locked, before=facts(locked))
        locked.attempts.all()._raw_delete(locked.attempts.db)
        locked.tasks.all()._raw_delete(locked.tasks.db)
        locked.delete()
        transaction.on_commit(partial(remove_folder, run.remote_dir, project_id=run.project_id, config=run.config))


def checked_verifier(
    verifier: Mapping[str, Any], version: DatasetVersion, project: Project, split: str | None = None
) -> VerifierChoice:
    """The verifier with all its settings written out, tried on the first tasks. Raises ConfigError, DataError."""
    if version.dataset.project_id != project.pk or version.status != VersionStatus.READY:
        raise ConfigError("Choose a dataset version of this project that is ready.", path=("data", "dataset"))
    refuse_other_than_tasks(version)
    probe = EvalConfig.from_values({"model": {}, "data": {"dataset": version.reference}, "verifier": dict(verifier)})
    settings = probe.verifier_config()
    values = settings.model_dump(mode="json")
    if isinstance(values.get("base_url"), str):
        refuse_private(values["base_url"], path=("verifier", "params", "base_url"))
    require_credential(project, values.get("credential"), path=("verifier", "params", "credential"))
    kind = probe.verifier.kind
    refuse_unfit([Task.of(row) for row in islice(version.read_rows(split), NUM_TASKS_LOOKED_AT)], verifiers.get(kind)(**values))
    return VerifierChoice(kind=kind, params=values)


def refuse_other_than_tasks(version: DatasetVersion) -> None:
    """Raises ConfigError for rows that an eval cannot ask."""
    if version.format != Format.TASK:
        raise ConfigError(
            f"{version.reference} holds {version.get_format_display().lower()} rows. An eval needs tasks: rows with task_id, "
            "messages and answer.",
            path=("data", "dataset"),
        )


def _check_model(user: User, project: Project, config: EvalConfig, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint that is sampled from, if any. Raises ConfigError for what the person may not use."""
    if config.endpoint is not None:
        refuse_private(config.endpoint.base_url, path=("endpoint", "base_url"))
        require_credential(project, config.endpoint.credential, path=("endpoint", "credential"))
        return None
    assert config.model is not None
    check_model_name(config.backend.kind, config.model.name)
    check_backend(project, config.backend)
    for field, name in (("name", config.model.name), ("checkpoint", config.model.checkpoint)):
        refuse_foreign_folder(user, name, path=("model", field))
    refuse_expired(user, config.model.checkpoint, path=("model", "checkpoint"))
    if config.model.checkpoint is None:
        return None
    visible = Checkpoint.objects.filter(sampler_uri=config.model.checkpoint)
    if not user.is_superuser:
        visible = visible.filter(run__project__memberships__user=user)
    return checkpoint or visible.select_related("run").first()


def _label(config: EvalConfig, checkpoint: Checkpoint | None) -> str:
    return f"{checkpoint.run.name} · step {checkpoint.step:,}" if checkpoint is not None else config.model_label


def _queue_again(user: User, run: EvalRun, what: str, *, even_completed: bool) -> EvalRun:
    require_editor(user, run.project)
    run.refresh_from_db()
    if run.dataset_version_id is None and run.is_done_here:
        raise RunRefused(f"The dataset {run.dataset_reference} was deleted, so this run cannot go on.")
    before = run.status
    with transaction.atomic():
        if not run.queue(even_completed=even_completed):
            raise RunRefused(_standing_sentence(run, what))
        run.note(f"{'Resume' if what == 'resumed' else 'Retry of errors'} asked by {user}.")
        record(user, what, run, before={"status": before}, after={"status": run.status})
        announce(run, run_eval)
    return run


def _standing_sentence(run: EvalRun, what: str) -> str:
    run.refresh_from_db()
    if run.is_imported:
        return f"These attempts were made elsewhere and imported; they cannot be {what}."
    return f"This run is {run.get_status_display().lower()} and cannot be {what}."
