"""Through which door the work at hand came in, for the audit log: a page, the API with this token, a command, a worker."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from celery import current_task
from django.http import HttpRequest, HttpResponseBase


class Origin(NamedTuple):
    door: str
    address: str | None = None


_origin: ContextVar[Origin | None] = ContextVar("origin", default=None)


def origin() -> Origin:
    """Of a request what the middleware noted; else a worker's task, or the command that runs."""
    if noted := _origin.get():
        return noted
    return Origin("worker" if current_task else f"command {Path(sys.argv[0]).name if len(sys.argv) < 2 else sys.argv[1]}"[:60])


def came_by_token(prefix: str) -> None:
    """The request was signed in by the token that begins so."""
    noted = _origin.get()
    _origin.set(Origin(f"API {prefix}…", noted.address if noted else None))


class OriginMiddleware:
    """Notes the door of each request. Works under WSGI and ASGI."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        token = _origin.set(Origin(_door(request), address_of(request)))
        response = self.get_response(request)
        if isinstance(response, HttpResponseBase):
            _origin.reset(token)
            return response
        return response  # an awaitable runs in this request's own context


def address_of(request: HttpRequest) -> str | None:
    """A proxy that is believed may pass on what its visitor said, whatever that is. The zone of fe80::1%eth0 is left out: it says
    nothing elsewhere, and PostgreSQL takes none."""
    try:
        return str(ip_address(request.META.get("REMOTE_ADDR", "").partition("%")[0]))
    except ValueError:
        return None


def _door(request: HttpRequest) -> str:
    first = request.path_info.split("/")[1]
    return {"api": "API", "admin": "admin"}.get(first, "page")
