"""What was made from a checkpoint, and what would break without it: read backwards over keys and over the paths in configs."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from django.db.models import CASCADE, Model, Q, QuerySet

from evsys_web.accounts.models import OwnedQuerySet, User
from evsys_web.checkpoints.models import Export
from evsys_web.runs.downloads import folder_within
from evsys_web.runs.models import ACTIVE, Checkpoint, Status, TrainingRun
from evsys_web.runs.work import Tracked

LIVE = (Status.QUEUED, *ACTIVE)
MAX_LISTED = 20


class Dependents(NamedTuple):
    """Rows of one kind: how many there are, and the newest that the person may see."""

    noun: str
    num_rows: int
    listed: list[Model]


def dependents(checkpoint: Checkpoint, user: User) -> list[Dependents]:
    """Runs that began from it, its evals, and whatever else points at it; kinds without any are left away."""
    found = [_kind("run", "runs", begun_from(checkpoint), user)]
    for model, rows in pointing_at(checkpoint):
        found.append(_kind(str(model._meta.verbose_name), str(model._meta.verbose_name_plural), rows, user))
    return [kind for kind in found if kind.num_rows]


def begun_from(checkpoint: Checkpoint) -> QuerySet[TrainingRun]:
    """Every run whose weights began as these, whoever's it is."""
    uri = checkpoint.sampler_uri
    runs: QuerySet[TrainingRun] = TrainingRun.objects.filter(config__model__init_from_checkpoint=uri)
    return runs.order_by("-pk") if uri else runs.none()


def why_kept(checkpoint: Checkpoint) -> str:
    """Why it cannot be deleted now, in a sentence; empty when it can."""
    run = checkpoint.run
    if run.status in LIVE and not run.is_external:
        return f"Its run is {run.get_status_display().lower()} and may still need it. Stop the run first, or wait for its end."
    if begun := begun_from(checkpoint).filter(status__in=LIVE).first():
        return (
            f"The run {begun.pk} is {begun.get_status_display().lower()} and begins from it. Wait for its end, or stop it first."
        )
    for model, rows in [*pointing_at(checkpoint), *pointing_at(run)]:
        if issubclass(model, Tracked) and (live := rows.filter(status__in=LIVE).first()) is not None:
            noun = model._meta.verbose_name
            return f"The {noun} {live.pk} is {live.get_status_display().lower()} and uses it. Wait for its end, or stop it first."
    if (export := Export.objects.filter(checkpoint=checkpoint, status__in=LIVE).first()) is not None:
        return f"An export of it is {export.get_status_display().lower()}. Wait for its end, or stop it first."
    if built := next((begun for begun in begun_from(checkpoint) if _stands_on(begun, checkpoint.sampler_uri)), None):
        return f"What run {built.pk} saved are adapters on top of these weights, useless without them. Delete that run first."
    return ""


def resume_warning(checkpoint: Checkpoint) -> str:
    """What resuming its run would lose; empty when nothing."""
    run = checkpoint.run
    resumable = run.checkpoints.exclude(state_uri="").order_by("-step", "-pk")
    newest = resumable.first()
    if newest is None or newest.pk != checkpoint.pk or not run.is_done_here:
        return ""
    before = resumable.exclude(pk=checkpoint.pk).first()
    if run.can_resume:
        then = f"would go on from step {before.step:,} instead" if before else "would begin again at the first step"
        return f"Resuming the run {then}: this is the newest state that it saved."
    return "This is the newest state that the run saved; without it training cannot go on from where it ended."


def pointing_at(target: Checkpoint | TrainingRun) -> list[tuple[type[Model], QuerySet[Any]]]:
    """Rows of later apps with a key on it, by model. A part stands for the work that it belongs to: a round for its cycle.
    Exports go with the checkpoint, and clones share nothing with their run, so neither is a dependent."""
    conditions: dict[type[Model], Q] = {}
    for relation in target._meta.related_objects:
        part = relation.related_model
        if not isinstance(part, type) or part in (Export, TrainingRun):
            continue
        rows = part._default_manager.filter(**{relation.field.name: target})
        whole = next(filter(None, (_whole_by(field) for field in part._meta.concrete_fields if field != relation.field)), None)
        if whole is not None and not issubclass(part, Tracked):
            condition = Q(pk__in=rows.values(whole.name))
            part = whole.related_model
        elif isinstance(target, Checkpoint) or issubclass(part, Tracked):
            condition = Q(pk__in=rows.values("pk"))
        else:
            continue  # a run's own points, events and checkpoints
        conditions[part] = conditions.get(part, Q()) | condition
    return [(model, model._default_manager.filter(condition).order_by("-pk")) for model, condition in conditions.items()]


def _whole_by(field: Any) -> Any:
    """The key by which a row is a part of some work, and goes with it; None for any other field."""
    whole = field.related_model
    is_part = isinstance(whole, type) and issubclass(whole, Tracked) and field.remote_field.on_delete is CASCADE
    return field if is_part else None


def _kind(noun: str, plural: str, rows: QuerySet[Any], user: User) -> Dependents:
    count = rows.count()
    visible = rows.visible_to(user) if isinstance(rows, OwnedQuerySet) else rows.none()
    return Dependents(noun if count == 1 else plural, count, list(visible[:MAX_LISTED]))


def _stands_on(run: TrainingRun, uri: str) -> bool:
    """Whether the run saved an adapter that names these weights as its base. One that began from an adapter took it over."""
    for checkpoint in run.checkpoints.all():
        folder = folder_within(run, checkpoint.sampler_uri)
        try:
            saved = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")) if folder else {}
        except (OSError, ValueError):
            continue
        if isinstance(saved, dict) and saved.get("base_model_name_or_path") == uri:
            return True
    return False
