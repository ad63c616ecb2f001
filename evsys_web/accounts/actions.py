"""Writes with two callers or two effects: the first administrator, tokens, credentials; and who may write in a project."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import NamedTuple

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils.timezone import now

from evsys_web.accounts.models import ApiToken, BackendCredential, Membership, Project, Role, User
from evsys_web.encryption import seal, unseal
from recipes.errors import ConfigError


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


def require_membership(user: User, project: Project, *, owner: bool = False) -> None:
    """Raises PermissionDenied unless the person is in the project (and owns it)."""
    memberships = Membership.objects.filter(project=project, user=user)
    if owner:
        memberships = memberships.filter(role=Role.OWNER)
    if not user.is_superuser and not memberships.exists():
        raise PermissionDenied("Only an owner of the project may do that." if owner else "You are not in this project.")


def store_credential(*, user: User, project: Project, name: str, secret: str, kind: str = "openai") -> BackendCredential:
    """Keep a key under a name, in the place of the one that had it. Nobody reads it again. Raises ConfigError."""
    require_membership(user, project)
    name, secret = name.strip(), secret.strip()
    if not 0 < len(name) <= 200 or not name.isprintable():
        raise ConfigError("Give the credential a name of 1 to 200 printable characters.", path=("name",))
    if not 0 < len(secret) <= 10_000 or not secret.isascii() or not secret.isprintable():
        raise ConfigError("The key is empty, or holds characters that no HTTP header carries.", path=("secret",))
    hint = secret[-4:] if len(secret) >= 16 else ""
    values = {"sealed": seal(secret), "hint": hint, "kind": kind, "created_by": user, "created_at": now(), "last_used_at": None}
    credential, _ = BackendCredential.objects.update_or_create(project=project, name=name, defaults=values)
    return credential


def delete_credential(*, user: User, credential: BackendCredential) -> None:
    """Runs that name it fail from then on, with a sentence."""
    require_membership(user, credential.project)
    credential.delete()


def require_credential(project: Project, name: str | None, *, path: tuple[str, ...]) -> None:
    """Raises ConfigError when a credential is named that the project does not have."""
    if name and not BackendCredential.objects.filter(project=project, name=name).exists():
        raise ConfigError(f"There is no credential {name!r} in this project.", path=path)


def reveal_credential(*, project: Project, name: str) -> str:
    """The key itself, for the call that is about to be made. Raises ConfigError when there is none of this name."""
    credential = BackendCredential.objects.filter(project=project, name=name).first()
    if credential is None:
        raise ConfigError(f"There is no credential {name!r} in this project. Add it, or choose another.", path=("credential",))
    BackendCredential.objects.filter(pk=credential.pk).update(last_used_at=now())
    return unseal(credential.sealed)
