"""`/api/v1/hub-transfers`: publish a version to the Hugging Face hub, import a dataset from there, and see how it stands."""

from __future__ import annotations

from datetime import datetime

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from evsys_web.accounts.models import Project
from evsys_web.api.auth import caller
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.datasets import hub_actions
from evsys_web.datasets.downloads import ExportFormat
from evsys_web.datasets.models import DatasetVersion, HubTransfer

router = Router(tags=["datasets"])


class PublishIn(Schema):
    version: int = Field(ge=1, le=2**63 - 1, description="Id of the dataset version.")
    repo_id: str = Field(max_length=200, description="owner/name on the hub; made when there is none.")
    credential: str = Field(max_length=200, description="Name of the stored key.")
    private: bool = Field(True, description="False lets everybody read it.")
    format: ExportFormat = Field(ExportFormat.PARQUET, description="parquet or jsonl.")


class HubImportIn(Schema):
    repo_id: str = Field(max_length=200, description="owner/name on the hub.")
    config: str = Field("", max_length=200, description="Where it has several; its default one when left away.")
    split: str = Field("", max_length=64, description="Only this split; all of them when left away.")
    revision: str = Field("", max_length=200, description="A branch, tag or commit; main when left away.")
    name: str = Field("", max_length=100, description="Name of the dataset here; as on the hub when left away.")
    credential: str = Field("", max_length=200, description="Name of the stored key; none is sent when left away.")
    project: int | None = Field(
        None, ge=1, le=2**63 - 1, description="Id of one of your projects; your first one when left away."
    )
    convert: bool = Field(False, description="Convert rows in a known foreign shape.")


class TransferOut(Schema):
    id: int
    direction: str = Field(description="push or pull.")
    repo_id: str
    revision: str
    config: str
    split: str
    status: str = Field(description="queued, running, completed or failed.")
    error: str
    url: str = Field(description="Of the commit that published.")
    version_id: int | None = Field(description="What is published, or what the import became.")
    staged_id: str | None = Field(description="Rows that wait until somebody says on their page how to read them.")
    is_private: bool
    created_at: datetime
    finished_at: datetime | None

    @staticmethod
    def resolve_staged_id(found: HubTransfer) -> str | None:
        return str(found.staged_id) if found.staged_id else None


@router.post("/push", response={202: TransferOut}, summary="Publish a version to the Hugging Face hub")
@idempotent
def publish(request: HttpRequest, body: PublishIn) -> Status[HubTransfer]:
    """A worker makes one commit: a file per split, and a card that says how the rows came to be."""
    user = caller(request)
    versions = DatasetVersion.objects.ready().visible_to(user).select_related("dataset__project").distinct()
    made = hub_actions.publish_version(
        user=user,
        version=get_object_or_404(versions, pk=body.version),
        repo_id=body.repo_id,
        credential=body.credential,
        private=body.private,
        format=body.format,
    )
    return Status(202, made)


@router.post("/pull", response={202: TransferOut}, summary="Import a dataset from the Hugging Face hub")
@idempotent
def pull(request: HttpRequest, body: HubImportIn) -> Status[HubTransfer]:
    """A worker fetches the files of rows and imports them as an upload would be."""
    user = caller(request)
    if body.project is None:
        project = user.default_project()
    else:
        project = get_object_or_404(Project.objects.visible_to(user).distinct(), pk=body.project)
    return Status(202, hub_actions.import_from_hub(user=user, project=project, **body.model_dump(exclude={"project"})))


@router.get("", response=Page[TransferOut], summary="List transfers, newest first")
def list_transfers(request: HttpRequest, query: Query[PageQuery]) -> Slice:
    return paginate(HubTransfer.objects.visible_to(caller(request)), query)


@router.get("/{int:transfer_id}", response=TransferOut, summary="One transfer")
def get_transfer(request: HttpRequest, transfer_id: int) -> HubTransfer:
    return _transfer(request, transfer_id)


@router.post("/{int:transfer_id}/again", response=TransferOut, summary="Try again what failed or fell silent")
def again(request: HttpRequest, transfer_id: int) -> HubTransfer:
    """A transfer that is under way or done stays as it is."""
    found = _transfer(request, transfer_id)
    hub_actions.go_again(user=caller(request), found=found)
    return found


def _transfer(request: HttpRequest, transfer_id: int) -> HubTransfer:
    found: HubTransfer = get_object_or_404(
        HubTransfer.objects.visible_to(caller(request)).select_related("project").distinct(), pk=transfer_id
    )
    return found
