"""For answers that last for hours: is whoever asked still somebody who may ask?"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest

from evsys_web.accounts.models import ApiToken, User


def still_here(request: HttpRequest) -> Callable[[], User | None]:
    """Asks the database anew, each time: the person, or None once the account is closed, the token revoked or over, the session
    ended, or the password that opened it is another one."""
    assert isinstance(request.user, User)
    user_id, token = request.user.pk, getattr(request, "auth", None)
    token_id = token.pk if isinstance(token, ApiToken) else None
    session = None if token_id else request.session
    opened_with = request.user.get_session_auth_hash()

    def ask() -> User | None:
        if token_id is not None and not ApiToken.objects.usable().filter(pk=token_id).exists():
            return None
        if session is not None and not (session.session_key and session.exists(session.session_key)):
            return None
        found: User | None = User.objects.filter(pk=user_id, is_active=True).first()
        if session is not None and found is not None and found.get_session_auth_hash() != opened_with:
            return None  # the session's row stays until somebody comes with its cookie
        return found

    return ask
