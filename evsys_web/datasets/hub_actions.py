"""Writes around the hub: ask for a transfer, and ask again for one that failed or fell silent."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import BackendCredential, Project, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.datasets.downloads import ExportFormat
from evsys_web.datasets.hub import check_repo_id
from evsys_web.datasets.models import DatasetVersion, Direction, HubTransfer
from evsys_web.datasets.publishing import check_name
from evsys_web.datasets.tasks import transfer
from recipes.errors import ConfigError


def publish_version(
    *,
    user: User,
    version: DatasetVersion,
    repo_id: str,
    credential: str,
    private: bool = True,
    format: ExportFormat = ExportFormat.PARQUET,
) -> HubTransfer:
    """Queue a commit of the version to a dataset on the hub, with a stored key. Raises PermissionDenied, ConfigError."""
    project = version.dataset.project
    require_editor(user, project)
    repo_id = check_repo_id(repo_id, needs_owner=True)
    if not credential:
        raise ConfigError("Publishing needs a key of the hub that may write. Store one under Credentials.", path=("credential",))
    _check_credential(project, credential)
    return _queued(
        project=project,
        created_by=user,
        direction=Direction.PUSH,
        version=version,
        repo_id=repo_id,
        credential=credential,
        is_private=private,
        format=format,
    )


def import_from_hub(
    *,
    user: User,
    project: Project,
    repo_id: str,
    name: str = "",
    config: str = "",
    split: str = "",
    revision: str = "",
    credential: str = "",
    convert: bool = False,
) -> HubTransfer:
    """Queue an import; without a name the dataset is called as on the hub. Raises PermissionDenied, ConfigError."""
    require_editor(user, project)
    repo_id = check_repo_id(repo_id)
    name = name.strip() or repo_id.rpartition("/")[2]
    check_name(name)
    for field, text in (("config", config), ("split", split), ("revision", revision)):
        if not text.isprintable():
            raise ConfigError(f"The {field} holds characters that no name has.", path=(field,))
    _check_credential(project, credential)
    return _queued(
        project=project,
        created_by=user,
        direction=Direction.PULL,
        repo_id=repo_id,
        dataset_name=name,
        config=config.strip(),
        split=split.strip(),
        revision=revision.strip(),
        credential=credential,
        convert=convert,
    )


def go_again(*, user: User, found: HubTransfer) -> bool:
    """Back to the queue, if it failed or nothing was heard of it for long. Raises PermissionDenied."""
    require_editor(user, found.project)
    before = found.status
    with transaction.atomic():
        won = found.queue_again()
        if won:
            record(user, "tried again", found, before={"status": before}, after={"status": "queued"})
            _announce(found)
    return won


def _queued(**values: Any) -> HubTransfer:
    with transaction.atomic():
        made: HubTransfer = HubTransfer.objects.create(**values)
        record(values["created_by"], "launched", made, after=facts(made))
        _announce(made)
    return made


def _announce(found: HubTransfer) -> None:
    pk = found.pk
    transaction.on_commit(lambda: transfer.delay(pk), robust=True)


def _check_credential(project: Project, name: str) -> None:
    if name and not name.isprintable():
        raise ConfigError("The credential's name holds characters that no name has.", path=("credential",))
    if name and not BackendCredential.objects.filter(project=project, name=name).exists():
        raise ConfigError(f"There is no credential {name!r} in this project.", path=("credential",))
