"""`/api/v1/credentials`: keys for other servers, which go in and never come out."""

from __future__ import annotations

from datetime import datetime

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field, SecretStr

from evsys_web.accounts import actions
from evsys_web.accounts.models import BackendCredential, Project
from evsys_web.api.auth import caller
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate

router = Router(tags=["credentials"])


class CredentialIn(Schema):
    name: str = Field(max_length=200, description="What configs call it. A name that is taken gets the new key.")
    secret: SecretStr = Field(max_length=10_000, description="The key. It is stored encrypted and never given back.")
    project: int | None = Field(None, ge=1, le=2**63 - 1, description="Id of the project; left away, your first one.")


class CredentialOut(Schema):
    id: int
    project_id: int
    name: str
    kind: str
    hint: str = Field(description="The last characters of a long key, to tell keys apart.")
    created_at: datetime
    last_used_at: datetime | None


@router.post("", response={201: CredentialOut}, summary="Store a key under a name, in the place of the one that had it")
def store_credential(request: HttpRequest, body: CredentialIn) -> Status[BackendCredential]:
    user = caller(request)
    if body.project is None:
        project = user.default_project()
    else:
        project = get_object_or_404(Project.objects.visible_to(user), pk=body.project)
    secret = body.secret.get_secret_value()
    return Status(201, actions.store_credential(user=user, project=project, name=body.name, secret=secret))


@router.get("", response=Page[CredentialOut], summary="List stored keys, without the keys")
def list_credentials(request: HttpRequest, query: Query[PageQuery]) -> Slice:
    return paginate(BackendCredential.objects.visible_to(caller(request)), query)


@router.delete("/{int:credential_id}", response={204: None}, summary="Delete a key; evals that name it fail from then on")
def delete_credential(request: HttpRequest, credential_id: int) -> Status[None]:
    credential = get_object_or_404(BackendCredential.objects.visible_to(caller(request)), pk=credential_id)
    actions.delete_credential(user=caller(request), credential=credential)
    return Status(204, None)
