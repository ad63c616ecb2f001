"""How many calls a token may make in a minute; told with every answer, and refused with when to come back.

Counted by Django's cache: in this process, or in Redis where there is one, so that several web processes count together.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from django.conf import settings
from django.core.cache import caches
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja.throttling import BaseThrottle
from redis.exceptions import RedisError

from evsys_web.accounts.models import ApiToken

logger = logging.getLogger(__name__)
WINDOW_SECONDS = 60


class Rate(NamedTuple):
    limit: int
    remaining: int
    reset: int
    """Seconds until the window ends."""


class TokenThrottle(BaseThrottle):
    """Not ninja's own: that one keeps the request's history on itself, which threads share."""

    def allow_request(self, request: HttpRequest) -> bool:
        token: ApiToken | None = getattr(request, "auth", None)
        if token is None or not settings.API_RATE:
            return True
        window, passed = divmod(int(time.time()), WINDOW_SECONDS)
        key, cache = f"rate:{token.pk}:{window}", caches["rates"]
        try:
            cache.add(key, 0, timeout=2 * WINDOW_SECONDS)
            count = cache.incr(key)
        except (OSError, ValueError, RedisError):  # Redis is away, or threw the key out: better uncounted than refused
            logger.warning("Calls are not counted: the cache does not answer", exc_info=True)
            return True
        request.rate = Rate(settings.API_RATE, max(0, settings.API_RATE - count), WINDOW_SECONDS - passed)  # type: ignore[attr-defined]
        return bool(count <= settings.API_RATE)


def tell_rate(request: HttpRequest, response: HttpResponseBase) -> None:
    """Headers of the answer: X-RateLimit-Limit, -Remaining, -Reset (seconds), and Retry-After with a refusal."""
    rate: Rate | None = getattr(request, "rate", None)
    if rate is None:
        return
    for name, value in zip(("Limit", "Remaining", "Reset"), rate, strict=True):
        response[f"X-RateLimit-{name}"] = str(value)
    if response.status_code == 429:
        response["Retry-After"] = str(rate.reset)
