"""For answers that last for hours: is whoever asked still somebody who may ask?"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest

from evsys_web.accounts.models import ApiToken, User


def still_here(request: HttpRequest) -> Callable[[], User | None]:
    """Asks the database anew, each time: the person, or None once the account is closed, the token revoked or over, or the
    session ended."""
    assert isinstance(request.user, User)
    user_id, token = request.user.pk, getattr(request, "auth", None)
    token_id = token.pk if isinstance(token, ApiToken) else None
    session = None if token_id else request.session

    def ask() -> User | None:
        if token_id is not None and not ApiToken.objects.usable().filter(pk=token_id).exists():
            return None
        if session is not None and not (session.session_key and session.exists(session.session_key)):
            return None
        found: User | None = User.objects.filter(pk=user_id, is_active=True).first()
        return found

    return ask
