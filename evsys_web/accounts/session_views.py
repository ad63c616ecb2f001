"""The list of a person's own sessions."""

from __future__ import annotations

from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from evsys_web.accounts.sessions import end_other_sessions, end_session, sessions_of
from evsys_web.accounts.views import signed_in


@never_cache
@require_safe
def sessions(request: HttpRequest) -> HttpResponse:
    return render(request, "accounts/sessions.html", {"sessions": sessions_of(request, signed_in(request))})


@require_POST
def end(request: HttpRequest, pk: int) -> HttpResponse:
    """Ending this very one is signing out, for which there is a button."""
    user = signed_in(request)
    others = UserSession.objects.filter(user=user).exclude(session_key=request.session.session_key)
    end_session(user=user, session=get_object_or_404(others, pk=pk))
    messages.success(request, "That browser is signed out.")
    return redirect("accounts:sessions")


@require_POST
def end_others(request: HttpRequest) -> HttpResponse:
    if count := end_other_sessions(request, signed_in(request)):
        messages.success(request, f"Signed out: {count} other browser{'s' if count > 1 else ''}.")
    else:
        messages.info(request, "You are signed in nowhere else.")
    return redirect("accounts:sessions")
