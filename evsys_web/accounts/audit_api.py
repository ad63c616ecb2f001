"""`/api/v1/audit`: who changed what, for admins of projects, and for everybody what they did to their own account."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja import Query, Router, Schema
from pydantic import Field

from evsys_web.accounts.audit_export import export
from evsys_web.accounts.audit_views import narrowed
from evsys_web.accounts.models import AuditEntry
from evsys_web.api.auth import caller
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate

router = Router(tags=["audit"])


class AuditQuery(PageQuery):
    project: int | None = Field(None, ge=1, le=2**63 - 1, description="Only of this project.")
    user: str = Field("", max_length=150, description="Only by people whose user name holds this.")
    thing: str = Field("", max_length=200, description="Words that the thing's name, its kind or the verb holds.")
    since: date | None = Field(None, description="From this day on, UTC.")
    until: date | None = Field(None, description="Up to this day, UTC.")


class AuditOut(Schema):
    id: int
    created_at: datetime
    username: str
    project_id: int | None
    verb: str
    kind: str
    thing_id: str
    thing: str
    changes: dict[str, list[Any]] = Field(description="By field, the value before and after; secrets are hidden.")
    door: str = Field(description="page, admin, API and the token's prefix, command, or worker.")
    address: str | None


@router.get("", response=Page[AuditOut], summary="Who changed what, newest first")
def list_entries(request: HttpRequest, query: Query[AuditQuery]) -> Slice:
    return paginate(_entries(request, query).order_by(), query)


@router.get("/export", summary="The same as a file")
def export_entries(request: HttpRequest, query: Query[AuditQuery], format: Literal["csv", "jsonl"] = "jsonl") -> HttpResponseBase:
    return export(_entries(request, query), format)


def _entries(request: HttpRequest, query: AuditQuery) -> Any:
    return narrowed(AuditEntry.objects.visible_to(caller(request)), **query.model_dump(exclude={"limit", "cursor"}))
