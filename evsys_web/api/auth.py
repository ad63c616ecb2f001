"""A bearer token, never the session: a page in the same browser cannot use the API by riding on a cookie."""

from __future__ import annotations

from django.http import HttpRequest
from ninja.errors import HttpError
from ninja.security import HttpBearer

from evsys_web.accounts.models import ApiToken, User
from evsys_web.accounts.origin import came_by_token

READING = {"GET", "HEAD", "OPTIONS"}


class TokenAuth(HttpBearer):
    """`request.auth` becomes the ApiToken and `request.user` its owner. Reading needs the read scope, all else write."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken | None:
        found = ApiToken.objects.matching(token)
        if found is None:
            return None
        if request.method not in READING and not found.can_write:
            raise HttpError(403, "This token may only read. Make one with the scope “read and write” on the API tokens page.")
        ApiToken.objects.touch(found.pk)
        request.user = found.user
        came_by_token(found.prefix)
        return found


def caller(request: HttpRequest) -> User:
    """The owner of the token; for operations that TokenAuth let through."""
    assert isinstance(request.user, User)
    return request.user
