"""The API's document and its page, which are the same for everybody until the process ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_cache_control
from django.views.decorators.http import conditional_page

View = Callable[..., HttpResponse]


def kept(view: View) -> View:
    """Made at the first request (the document takes a second of processor time); not sent again to whoever has it."""
    made: list[tuple[bytes, str]] = []

    @conditional_page
    @wraps(view)
    def answered(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if not made:
            response = view(request, **kwargs)
            made.append((response.content, response["Content-Type"]))
        content, content_type = made[0]
        response = HttpResponse(content, content_type=content_type)
        patch_cache_control(response, no_cache=True)
        return response

    return answered
