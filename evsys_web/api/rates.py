"""How many calls a token may make in a minute; told with every answer, and refused with when to come back."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja.throttling import BaseThrottle

from evsys_web.accounts.models import ApiToken
from evsys_web.rates import Rate, count


class TokenThrottle(BaseThrottle):
    """Not ninja's own: that one keeps the request's history on itself, which threads share."""

    def allow_request(self, request: HttpRequest) -> bool:
        token: ApiToken | None = getattr(request, "auth", None)
        return token is None or count_call(request, token)


def count_call(request: HttpRequest, token: ApiToken) -> bool:
    """Count it, once, whoever is the first to ask. False when it is one too many."""
    if not settings.API_RATE:
        return True
    if not hasattr(request, "rate"):
        request.rate = count(str(token.pk), limit=settings.API_RATE)  # type: ignore[attr-defined]
    rate: Rate | None = request.rate  # type: ignore[attr-defined]
    return rate is None or rate.is_kept


def tell_rate(request: HttpRequest, response: HttpResponseBase) -> None:
    """Headers of the answer: X-RateLimit-Limit, -Remaining, -Reset (seconds), and Retry-After with a refusal."""
    rate: Rate | None = getattr(request, "rate", None)
    if rate is None:
        return
    for name, value in (("Limit", rate.limit), ("Remaining", rate.remaining), ("Reset", rate.reset)):
        response[f"X-RateLimit-{name}"] = str(value)
    if response.status_code == 429 and not response.has_header("Retry-After"):
        response["Retry-After"] = str(rate.reset)
