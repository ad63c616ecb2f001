"""Every write on a cycle that a page, the API and a command share. Each checks that the caller may, and says no in a sentence."""

from __future__ import annotations

from django.db import transaction

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor, require_maker
from evsys_web.cycles.benchmarks import benchmark_for, refuse_unfit_sides, spelled_out
from evsys_web.cycles.models import Cycle
from evsys_web.cycles.tasks import advance_cycle
from evsys_web.evals.actions import checked_verifier
from evsys_web.evals.models import Benchmark
from evsys_web.runs.actions import RunRefused, refuse_expired, refuse_foreign_folder
from evsys_web.runs.backends import check_backend, check_model_name, consents_of
from evsys_web.runs.launches import announce, made_before, queue_once
from evsys_web.runs.work import storable
from recipes.config import below
from recipes.cycle_config import SERVING_CONSENT, CycleConfig, Side
from recipes.errors import ConfigError, DataError


def launch_cycle(
    *,
    user: User,
    project: Project,
    config: CycleConfig,
    idempotency_key: str | None = None,
    cloned_from: Cycle | None = None,
) -> Cycle:
    """Queue a cycle on the benchmarks that its config names; those of named tasks are found, or made. The same key from the same
    person gives the cycle that it made the first time. Raises ConfigError, DataError, or PermissionDenied."""
    require_editor(user, project)
    if made := made_before(Cycle, user, idempotency_key):
        return made
    config.check()
    for field, name in (("name", config.model.name), ("checkpoint", config.model.checkpoint)):
        refuse_foreign_folder(user, name, path=("model", field))
    refuse_expired(user, config.model.checkpoint, path=("model", "checkpoint"))
    config.check_weights()
    check_model_name(config.backend.kind, config.model.name)
    check_backend(project, config.backend)
    with transaction.atomic():
        learn, judge = (_benchmark(user, project, config, side) for side in ("learn", "judge"))
        refuse_unfit_sides(config, learn, judge)
        sides = {"learn": spelled_out(learn, config.learn), "judge": spelled_out(judge, config.judge)}
        return queue_once(
            Cycle,
            advance_cycle,
            user=user,
            key=idempotency_key,
            project=project,
            name=storable(config.name),
            config=config.model_copy(update=sides).model_dump(mode="json"),
            learn=learn,
            judge=judge,
            cloned_from=cloned_from,
        )


def stop_cycle(*, user: User, cycle: Cycle) -> Cycle:
    """What is queued is cancelled at once; else the part under way stops after its step, at the second call at once.
    Raises RunRefused."""
    require_editor(user, cycle.project)
    before = cycle.status
    with transaction.atomic():
        if not cycle.request_stop():
            raise RunRefused(_standing_sentence(cycle, "stopped"))
        cycle.note(f"Stop asked by {user}.")
        record(user, "stopped", cycle, before={"status": before}, after={"status": cycle.status})
        part = cycle.part
        if part is not None and part.can_stop and part.request_stop():
            part.note(f"Stop of the cycle asked by {user}.")
        announce(cycle, advance_cycle)
    return cycle


def resume_cycle(*, user: User, cycle: Cycle) -> Cycle:
    """Queue an ended cycle again, to go on with the part that did not complete. Raises RunRefused."""
    require_editor(user, cycle.project)
    if cycle.can_resume:
        _refuse_unagreed(cycle)
    before = cycle.status
    with transaction.atomic():
        if not cycle.queue():
            raise RunRefused(_standing_sentence(cycle, "resumed"))
        cycle.note(f"Resume asked by {user}.")
        record(user, "resumed", cycle, before={"status": before}, after={"status": cycle.status})
        announce(cycle, advance_cycle)
    return cycle


def delete_cycle(*, user: User, cycle: Cycle) -> None:
    """Its evals, datasets and runs stay. For whoever started it, and the project's admins. Raises RunRefused."""
    require_maker(user, cycle.project, cycle.created_by_id)
    with transaction.atomic():
        locked = Cycle.objects.select_for_update().filter(pk=cycle.pk).first()
        if locked is None:
            return
        if locked.is_active:
            raise RunRefused(f"This cycle is {locked.get_status_display().lower()}. Stop it first, then delete it.")
        record(user, "deleted", locked, before=facts(locked))
        locked.delete()


def _benchmark(user: User, project: Project, config: CycleConfig, side: Side) -> Benchmark:
    """With its tasks, which its verifier can judge. Raises ConfigError, DataError."""
    benchmark = benchmark_for(user=user, project=project, choice=getattr(config, side), side=side)
    version = benchmark.dataset_version
    if version is None:
        raise ConfigError(f"The tasks of this benchmark ({benchmark.dataset_reference}) were deleted.", path=(side,))
    try:
        with below(side):
            checked_verifier(benchmark.verifier, version, project)
    except DataError as error:
        raise ConfigError(str(error), path=(side,)) from None
    return benchmark


def _refuse_unagreed(cycle: Cycle) -> None:
    """One that was imported came without what was agreed to elsewhere, and only a cycle to be started can be agreed to. Anything
    else that is wrong by now its worker says. Raises RunRefused."""
    try:
        cycle.load_config()
    except ConfigError as error:
        consents = {("backend", "params", name) for name in consents_of(cycle.config["backend"]["kind"])}
        if error.path in {SERVING_CONSENT, *consents}:
            raise RunRefused(
                "Nobody here has agreed to pay for what this cycle would go on with. Clone the cycle to agree anew."
            ) from None


def _standing_sentence(cycle: Cycle, what: str) -> str:
    cycle.refresh_from_db()
    return f"This cycle is {cycle.get_status_display().lower()} and cannot be {what}."
