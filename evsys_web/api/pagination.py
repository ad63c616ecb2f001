"""Cursor pagination: `{items, next_cursor}`. A cursor names the last row seen, so that rows made meanwhile shift nothing."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from ninja import Schema
from pydantic import Field

from evsys_web.api.errors import FieldError, Unprocessable

Item = TypeVar("Item")
Row = TypeVar("Row", bound=Model)


class PageQuery(Schema):
    """Query parameters of every list."""

    limit: int = Field(50, ge=1, le=200, description="Most items to return.")
    cursor: str = Field("", max_length=500, description="`next_cursor` of the page before; empty for the first page.")


class Page(Schema, Generic[Item]):
    items: list[Item]
    next_cursor: str | None = Field(None, description="Pass it as `cursor` to go on; null at the end.")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What `paginate` found. Not a tuple: ninja would read one as (status, body)."""

    items: list[Any]
    next_cursor: str | None


def paginate(rows: QuerySet[Row], query: PageQuery, *, by: str = "created_at", tie: str = "pk", ascending: bool = False) -> Slice:
    """One page of `rows`, largest `by` first, equals by `tie` (or the other way round). No row may lack a value of either.
    Raises Unprocessable for a cursor that this list did not give out."""
    beyond, sign = ("gt", "") if ascending else ("lt", "-")
    if query.cursor:
        value, last = _decode(query.cursor)
        try:
            rows = rows.filter(Q(**{f"{by}__{beyond}": value}) | Q(**{by: value, f"{tie}__{beyond}": last}))
        except (ValueError, TypeError, ValidationError):
            raise _bad_cursor() from None
    found = list(rows.order_by(f"{sign}{by}", f"{sign}{tie}")[: query.limit + 1])
    items = found[: query.limit]
    more = len(found) > len(items)
    return Slice(items=items, next_cursor=_encode(getattr(items[-1], by), getattr(items[-1], tie)) if more else None)


def _encode(value: Any, pk: Any) -> str:
    text = json.dumps([value.isoformat() if hasattr(value, "isoformat") else value, pk], default=str)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[Any, Any]:
    try:
        value, pk = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError):
        raise _bad_cursor() from None
    return value, pk


def _bad_cursor() -> Unprocessable:
    message = "This cursor was not given out by this list. Leave it away to begin at the first page."
    return Unprocessable(message, FieldError(field="cursor", message=message, rule="cursor"))
