"""Answers of Django's own that would be an empty window."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed
from django.shortcuts import render


class NotAllowedMiddleware:
    """Says in words that an address only takes what a button sends. Whoever signs in anew after pressing one is led there."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        response = self.get_response(request)
        if isinstance(response, HttpResponseBase):
            return _in_words(request, response) if isinstance(response, HttpResponseNotAllowed) else response
        return self._later(request, response)

    async def _later(self, request: HttpRequest, answer: Awaitable[HttpResponseBase]) -> HttpResponseBase:
        response = await answer
        return await sync_to_async(_in_words)(request, response) if isinstance(response, HttpResponseNotAllowed) else response


def _in_words(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    if response.content or request.method != "GET":
        return response
    page = render(request, "405.html", status=405)
    page["Allow"] = response["Allow"]
    return page
