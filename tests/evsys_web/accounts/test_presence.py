"""Whoever watches a stream for hours is asked for anew: an account that was closed, a session or token that ended, is gone."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest
from django.conf import settings
from django.test import RequestFactory

from evsys_web.accounts.models import ApiToken, User
from evsys_web.accounts.presence import still_here


@pytest.fixture
def by_session(alice: User) -> tuple[Callable[[], User | None], Callable[[], None]]:
    request = RequestFactory().get("/")
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session.create()
    request.user, request.session = alice, session
    return still_here(request), session.delete


@pytest.fixture
def by_token(alice: User) -> tuple[Callable[[], User | None], Callable[[], object]]:
    token, _ = ApiToken.objects.issue(alice, name="watcher")
    request = RequestFactory().get("/")
    request.user, request.auth = alice, token  # type: ignore[attr-defined]
    return still_here(request), lambda: ApiToken.objects.revoke(token.pk)


@pytest.mark.parametrize("door", ["by_session", "by_token"])
def test_what_ended_and_who_was_shut_out_is_not_here_any_more(door: str, alice: User, request: pytest.FixtureRequest) -> None:
    ask, end = request.getfixturevalue(door)
    assert ask() == alice
    User.objects.update(is_active=False)
    assert ask() is None
    User.objects.update(is_active=True)
    assert ask() == alice
    end()
    assert ask() is None


def test_a_new_password_ends_what_a_browser_watches_and_not_what_a_token_does(
    by_session: tuple[Callable[[], User | None], object], by_token: tuple[Callable[[], User | None], object], alice: User
) -> None:
    changed = User.objects.get(pk=alice.pk)
    changed.set_password("another one, 9")
    changed.save()
    assert by_session[0]() is None and by_token[0]() == alice
