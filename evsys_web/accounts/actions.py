"""Writes with two callers or two effects: the first administrator, tokens."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import NamedTuple

from django.db import transaction

from evsys_web.accounts.models import ApiToken, Project, User


class FirstAdmin(NamedTuple):
    user: User
    password: str | None
    """Only when the account was made just now; it is stored nowhere in clear."""


class IssuedToken(NamedTuple):
    token: ApiToken
    secret: str


@transaction.atomic
def ensure_admin(*, username: str = "admin") -> FirstAdmin:
    """The administrator of this installation; made with a random password and a first project when there is none."""
    if existing := User.objects.filter(is_superuser=True).order_by("pk").first():
        return FirstAdmin(existing, None)
    if User.objects.filter(username=username).exists():
        username = f"{username}-{secrets.token_hex(2)}"
    password = secrets.token_urlsafe(12)
    user = User.objects.create_superuser(username, password=password)
    Project.objects.create_for(user, name="Default")
    return FirstAdmin(user, password)


def issue_token(*, user: User, name: str, scope: str, expires_at: datetime | None) -> IssuedToken:
    """A new token; its secret is in the answer and nowhere else."""
    return IssuedToken(*ApiToken.objects.issue(user, name=name, scope=scope, expires_at=expires_at))


def revoke_token(*, user: User, token_id: int) -> bool:
    """Ends a token of this person for good. False when it was revoked before; ApiToken.DoesNotExist when it is not theirs."""
    token = ApiToken.objects.of(user).get(pk=token_id)
    return ApiToken.objects.revoke(token.pk)
