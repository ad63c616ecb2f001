"""Every write on a checkpoint that a page and the API share."""

from __future__ import annotations

import shutil
import uuid
from functools import partial
from pathlib import Path

from django.db import transaction

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import User
from evsys_web.accounts.permissions import require_maker
from evsys_web.checkpoints.dependents import why_kept
from evsys_web.checkpoints.models import Export
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.downloads import folder_within
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.checkpoints import Manifest
from recipes.errors import CheckpointError
from recipes.resources import ResourceLog


def delete_checkpoint(*, user: User, checkpoint: Checkpoint) -> None:
    """Remove the row and its files; what was made from it stays. For whoever started the run, and the project's admins.
    Raises RunRefused while something needs it."""
    run = checkpoint.run
    require_maker(user, run.project, run.created_by_id)
    with transaction.atomic():
        record(user, "deleted", checkpoint, before=facts(checkpoint))
        remove_checkpoint(checkpoint)


def remove_checkpoint(checkpoint: Checkpoint) -> None:
    """The same without asking who wants it. Raises RunRefused while something needs it."""
    run = checkpoint.run
    with transaction.atomic():
        locked = TrainingRun.objects.select_for_update().filter(pk=run.pk).first()
        if locked is None or not locked.checkpoints.filter(pk=checkpoint.pk).exists():
            return
        checkpoint.run = locked
        if reason := why_kept(checkpoint):
            raise RunRefused(reason)
        for folder in _set_aside(checkpoint):
            transaction.on_commit(partial(shutil.rmtree, folder, ignore_errors=True))
        for export in Export.objects.filter(checkpoint=checkpoint):
            transaction.on_commit(partial(shutil.rmtree, export.folder, ignore_errors=True))
        checkpoint.delete()


def _set_aside(checkpoint: Checkpoint) -> list[Path]:
    """Take the checkpoint out of what a resume can find, and rename its folders, which takes no time; to be removed later.
    Only what lies in the run's own folder is touched, and nothing that another checkpoint names as well."""
    run = checkpoint.run
    try:
        ResourceLog(run.output_dir).hand_over()  # a model that it names is not left over once it does not
        Manifest(run.output_dir).forget(checkpoint.name)
    except CheckpointError as error:
        raise RunRefused(f"{error} Delete the whole run instead.") from None
    others = run.checkpoints.exclude(pk=checkpoint.pk).values_list("state_uri", "sampler_uri")
    kept = {folder for uris in others for uri in uris if (folder := folder_within(run, uri))}
    aside = []
    for folder in {folder_within(run, uri) for uri in (checkpoint.state_uri, checkpoint.sampler_uri)} - {None, *kept}:
        assert folder is not None
        target = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.deleted")
        folder.rename(target)
        aside.append(target)
    return aside
