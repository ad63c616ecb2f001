"""How long this server's answers take, for Prometheus: by view, never by address, so that the number of series stays small.

With PROMETHEUS_MULTIPROC_DIR set, several web processes add up their numbers in files there; `numbers` then reads them all.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = Histogram(
    "evsys_http_request_seconds",
    "Time to the first byte of an answer, by view.",
    ["view", "method", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 5, 10),
)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class MeasuringMiddleware:
    """Stands outermost, so that it counts what all the others take. Works under WSGI and ASGI."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        began = time.perf_counter()
        response = self.get_response(request)
        if isinstance(response, HttpResponseBase):
            return _measured(request, response, began)
        return self._later(request, response, began)

    async def _later(self, request: HttpRequest, response: Awaitable[HttpResponseBase], began: float) -> HttpResponseBase:
        return _measured(request, await response, began)


def _measured(request: HttpRequest, response: HttpResponseBase, began: float) -> HttpResponseBase:
    match = request.resolver_match
    view = (match.view_name or "unnamed") if match else "none"
    method = request.method if request.method in METHODS else "other"
    SECONDS.labels(view, method, f"{response.status_code // 100}xx").observe(time.perf_counter() - began)
    return response


def numbers() -> bytes:
    """In Prometheus' text format: of this process, or of all of them."""
    registry: CollectorRegistry = REGISTRY
    if settings.PROMETHEUS_MULTIPROC_DIR:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
