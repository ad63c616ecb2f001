"""`/api/v1/credentials`: keys for other servers, which go in and never come out."""

from __future__ import annotations

from datetime import datetime

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field, SecretStr

from evsys_web.accounts import actions
from evsys_web.accounts.connection_tests import try_connection
from evsys_web.accounts.models import BackendCredential, CredentialKind, Project
from evsys_web.api.auth import caller
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate

router = Router(tags=["credentials"])


class CredentialIn(Schema):
    name: str = Field(max_length=200, description="What configs call it. A name that is taken gets the new key.")
    secret: SecretStr = Field(max_length=10_000, description="The key. It is stored encrypted and never given back.")
    kind: CredentialKind = Field(CredentialKind.OPENAI, description="What the key is for.")
    base_url: str | None = Field(None, max_length=1000, description="Where it is tested; left away, the vendor's own address.")
    project: int | None = Field(None, ge=1, le=2**63 - 1, description="Id of the project; left away, your first one.")


class CredentialOut(Schema):
    id: int
    project_id: int
    name: str
    kind: str
    base_url: str = Field(description="Where it is tested. Configs name their own address.")
    hint: str = Field(description="The last characters of a long key, to tell keys apart.")
    created_at: datetime
    last_used_at: datetime | None
    tested_at: datetime | None
    test_outcome: str = Field(description="Of the last test: works, fails or unclear; empty before the first.")
    test_sentence: str


class TestIn(Schema):
    """Left away is what was stored with the key, or said at its last test."""

    __test__ = False

    kind: CredentialKind | None = None
    base_url: str | None = Field(None, max_length=1000)


@router.post("", response={201: CredentialOut}, summary="Store a key under a name, in the place of the one that had it")
def store_credential(request: HttpRequest, body: CredentialIn) -> Status[BackendCredential]:
    user = caller(request)
    if body.project is None:
        project = user.default_project()
    else:
        project = get_object_or_404(Project.objects.visible_to(user), pk=body.project)
    secret = body.secret.get_secret_value()
    stored = actions.store_credential(
        user=user, project=project, name=body.name, secret=secret, kind=body.kind, base_url=body.base_url
    )
    return Status(201, stored)


@router.get("", response=Page[CredentialOut], summary="List stored keys, without the keys")
def list_credentials(request: HttpRequest, query: Query[PageQuery]) -> Slice:
    return paginate(BackendCredential.objects.visible_to(caller(request)), query)


@router.post(
    "/{int:credential_id}/test", response=CredentialOut, summary="Try a key with one cheap call, and wait for the answer"
)
def test_credential(request: HttpRequest, credential_id: int, body: TestIn) -> BackendCredential:
    """At most some ten seconds. `test_outcome` says how it went, `test_sentence` what happened. A few tests a minute."""
    user = caller(request)
    credential = get_object_or_404(BackendCredential.objects.visible_to(user), pk=credential_id)
    return try_connection(user=user, credential=credential, kind=body.kind, base_url=body.base_url)


@router.delete("/{int:credential_id}", response={204: None}, summary="Delete a key; evals that name it fail from then on")
def delete_credential(request: HttpRequest, credential_id: int) -> Status[None]:
    credential = get_object_or_404(BackendCredential.objects.visible_to(caller(request)), pk=credential_id)
    actions.delete_credential(user=caller(request), credential=credential)
    return Status(204, None)
