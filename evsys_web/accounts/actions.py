"""Writes with two callers or two effects: the first administrator, tokens, credentials."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.utils.timezone import now

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import ApiToken, BackendCredential, CredentialKind, Project, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.addresses import refuse_private
from evsys_web.encryption import seal, unseal
from recipes.addresses import checked_address
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
    with transaction.atomic():
        issued = IssuedToken(*ApiToken.objects.issue(user, name=name, scope=scope, expires_at=expires_at))
        record(user, "made", issued.token, after=facts(issued.token))
    return issued


def revoke_token(*, user: User, token_id: int) -> bool:
    """Ends a token of this person for good. False when it was revoked before; ApiToken.DoesNotExist when it is not theirs."""
    token = ApiToken.objects.of(user).get(pk=token_id)
    with transaction.atomic():
        revoked = ApiToken.objects.revoke(token.pk)
        if revoked:
            record(user, "revoked", token, before={"state": token.state}, after={"state": "revoked"})
    return revoked


def store_credential(
    *, user: User, project: Project, name: str, secret: str, kind: str = CredentialKind.OPENAI, base_url: str | None = None
) -> BackendCredential:
    """Keep a key under a name, in the place of the one that had it. Nobody reads it again. kind, base_url: where
    `connection_tests` may try it. Raises ConfigError."""
    require_editor(user, project)
    base_url = checked_base_url(kind, base_url)
    name, secret = name.strip(), secret.strip()
    if not 0 < len(name) <= 200 or not name.isprintable():
        raise ConfigError("Give the credential a name of 1 to 200 printable characters.", path=("name",))
    if not 0 < len(secret) <= 10_000 or not secret.isascii() or not secret.isprintable():
        raise ConfigError("The key is empty, or holds characters that no HTTP header carries.", path=("secret",))
    hint = secret[-4:] if len(secret) >= 16 else ""
    values = {"sealed": seal(secret), "hint": hint, "kind": kind, "base_url": base_url, "created_by": user, "created_at": now()}
    values |= {"last_used_at": None, "tested_at": None, "test_outcome": "", "test_sentence": ""}
    with transaction.atomic():
        is_new = not BackendCredential.objects.filter(project=project, name=name).exists()
        credential, _ = BackendCredential.objects.update_or_create(project=project, name=name, defaults=values)
        told = {"name": name, "kind": kind, "base_url": base_url, "secret": secret}
        record(user, "stored" if is_new else "replaced", credential, after=told)
    return credential


def checked_base_url(kind: str, base_url: str | None) -> str:
    """Where a key of this kind is tested; empty for the vendor's own address. Raises ConfigError."""
    try:
        address = checked_address(base_url) or ""
    except ValueError as error:
        raise ConfigError(f"This is no address: {error}.", path=("base_url",)) from None
    if address and kind == CredentialKind.HUB:
        raise ConfigError("Leave the address empty: which hub is asked, the operator of this server decides.", path=("base_url",))
    refuse_private(address, path=("base_url",))
    return address


def delete_credential(*, user: User, credential: BackendCredential) -> None:
    """Runs that name it fail from then on, with a sentence."""
    require_editor(user, credential.project)
    with transaction.atomic():
        record(user, "deleted", credential, before=facts(credential))
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
