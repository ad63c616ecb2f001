"""Starting, stopping and removing exports, as page and API call them."""

from __future__ import annotations

import shutil

from django.db import transaction
from django.db.models import QuerySet

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import BackendCredential, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.checkpoints.models import Destination, Export, Weights
from evsys_web.checkpoints.tasks import export_checkpoint
from evsys_web.hub import checked_repository
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.downloads import checkpoint_bytes, folder_within
from evsys_web.runs.launches import made_before, queue_once
from evsys_web.runs.models import Checkpoint
from recipes.backends.local.models import weights_bytes
from recipes.errors import CheckpointError, ConfigError

SPARE = 1.1


def launch_merge(*, user: User, checkpoint: Checkpoint, key: str | None = None) -> Export:
    """Merged weights to download: those that there are, or that are being made, else new ones are queued.
    Raises ConfigError, CheckpointError."""
    require_editor(user, checkpoint.run.project)
    num_bytes = size_of(checkpoint, Weights.MERGED)
    if _holds_all_weights(checkpoint):
        raise CheckpointError("This checkpoint holds all weights already: download it as it is.")
    exports: QuerySet[Export] = Export.objects.filter(checkpoint=checkpoint, destination=Destination.DOWNLOAD)
    for export in exports:
        if export.is_ready or not export.has_ended:
            return export
    values = {"destination": Destination.DOWNLOAD, "weights": Weights.MERGED, "num_bytes": num_bytes}
    return _queue(user, checkpoint, key, **values)


def launch_push(
    *,
    user: User,
    checkpoint: Checkpoint,
    repository: str,
    credential: str,
    weights: str = Weights.ADAPTER,
    is_private: bool = True,
    key: str | None = None,
) -> Export:
    """Queue a push to the hub. Raises ConfigError, CheckpointError."""
    project = checkpoint.run.project
    require_editor(user, project)
    checked_repository(repository)
    if weights not in Weights.values:
        raise ConfigError(f"weights is one of {', '.join(Weights.values)}.", path=("weights",))
    if not BackendCredential.objects.filter(project=project, name=credential).exists():
        sentence = f"There is no credential {credential!r} in this project. Store the hub's token first."
        raise ConfigError(sentence, path=("credential",))
    values = {"destination": Destination.HUB, "weights": weights, "repository": repository, "credential": credential}
    return _queue(user, checkpoint, key, **values, is_private=is_private, num_bytes=size_of(checkpoint, weights))


def stop_export(*, user: User, export: Export) -> Export:
    """A queued one is cancelled at once, a running one before its next phase. Raises RunRefused."""
    require_editor(user, export.project)
    before = export.status
    with transaction.atomic():
        if not export.request_stop():
            raise RunRefused(f"This export is {export.get_status_display().lower()} and cannot be stopped.")
        record(user, "stopped", export, before={"status": before}, after={"status": export.status})
    return export


def remove_export(*, user: User, export: Export) -> None:
    """The row, and merged weights with it; what was pushed stays on the hub. Raises RunRefused."""
    require_editor(user, export.project)
    with transaction.atomic():
        locked = Export.objects.select_for_update().filter(pk=export.pk).first()
        if locked is None:
            return
        if locked.is_active:
            raise RunRefused(f"This export is {locked.get_status_display().lower()}. Stop it first, then remove it.")
        folder = locked.folder
        record(user, "removed", locked, before=facts(locked))
        locked.delete()
        transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))


def size_of(checkpoint: Checkpoint, weights: str) -> int:
    """Bytes that the export will take on this disk, 0 where nobody knows. Raises CheckpointError for what cannot be exported, and
    where there is no space."""
    if "://" in checkpoint.sampler_uri:
        raise CheckpointError("These weights lie with the provider that trained them; only what lies here can be exported.")
    folder = folder_within(checkpoint.run, checkpoint.sampler_uri)
    if folder is None:
        raise CheckpointError("The weights of this checkpoint are not on this server.")
    if not (folder / "adapter_config.json").is_file() and not _holds_all_weights(checkpoint):
        raise CheckpointError(f"The backend {checkpoint.run.backend} saves no weights that other programs read.")
    if weights != Weights.MERGED or _holds_all_weights(checkpoint):
        return checkpoint_bytes(checkpoint) or 0
    num_bytes = weights_bytes(checkpoint.run.model_name) or 0
    free = shutil.disk_usage(folder).free
    if num_bytes * SPARE > free:
        raise CheckpointError(
            f"Merged weights take about {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free here. Remove something first."
        )
    return num_bytes


def _holds_all_weights(checkpoint: Checkpoint) -> bool:
    folder = folder_within(checkpoint.run, checkpoint.sampler_uri)
    return folder is not None and (folder / "config.json").is_file()


def _queue(user: User, checkpoint: Checkpoint, key: str | None, **values: object) -> Export:
    if made := made_before(Export, user, key):
        return made
    run = checkpoint.run
    return queue_once(Export, export_checkpoint, user=user, key=key, checkpoint=checkpoint, project=run.project, **values)
