"""Single sign-on by OpenID Connect: whom the provider's word lets in.

1. Whoever's identity at the provider is connected with an account here signs in to that account.
2. Whoever is signed in connects theirs on their account page, after the password.
3. Anybody else gets a new account, if they hold an invitation's link, if their verified e-mail address was invited, or if the
   operator lets its domain in (EVSYS_OIDC_DOMAINS).

An account is never handed over because of an e-mail address: people type those themselves, and whoever typed yours first would
own what you do next. The identity is the provider's `sub`, of this issuer alone.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.http import Http404
from django.urls import Resolver404, resolve

from evsys_web.accounts.audit import record
from evsys_web.accounts.member_actions import accept
from evsys_web.accounts.models import Invitation, User

if TYPE_CHECKING:
    from evsys_web.environment import Oidc

LONGEST_NAME = 150
FORBIDDEN_IN_NAMES = re.compile(r"[^\w.@+-]")


class Refused(Exception):
    """Says to whoever wanted in why not."""


class Identity(NamedTuple):
    """email: only if the provider says that it is theirs."""

    email: str
    username: str
    first_name: str
    last_name: str


class Admitted(NamedTuple):
    user: User
    num_projects: int
    """Joined by invitations."""


def configured() -> Oidc:
    """The operator's provider. Raises Http404 where there is none."""
    provider: Oidc | None = settings.OIDC
    if provider is None:
        raise Http404("This server has no single sign-on.")
    return provider


def identity_of(claims: dict[str, Any]) -> Identity:
    """claims: as allauth keeps them, {"userinfo": …, "id_token": …}. An address counts if the same answer vouches for it."""
    answers = [claims.get("userinfo") or {}, claims.get("id_token") or {}]
    said = {name: str(value) for answer in reversed(answers) for name, value in answer.items() if isinstance(value, str)}
    with_email = next((answer for answer in answers if answer.get("email")), {})
    is_theirs = with_email.get("email_verified") is True and len(str(with_email["email"])) <= 254
    return Identity(
        email=str(with_email["email"]).strip() if is_theirs else "",
        username=said.get("preferred_username") or said.get("email", "").partition("@")[0],
        first_name=said.get("given_name", "").replace("\0", "")[:150],
        last_name=said.get("family_name", "").replace("\0", "")[:150],
    )


def admit(identity: Identity, *, wanted: str) -> Admitted:
    """A new account. wanted: the address of the page that they came for, which may be an invitation's. Raises Refused."""
    name = configured().name
    if identity.email and User.objects.filter(email__iexact=identity.email).exists():
        raise Refused(
            f"There is an account with the address {identity.email} already. Sign in to it as before, "
            f"then connect {name} with it on your account page. If it is not yours, ask an administrator."
        )
    invitations = list(_invitations(identity, wanted))
    if not invitations and not _lets_in(identity.email):
        whom = identity.email or f"the address that {name} has of you, which it does not vouch for,"
        raise Refused(f"Nobody invited {whom} to this server. Ask an admin of a project for an invitation, and open its link.")
    with transaction.atomic():
        user = User(
            username=_free_name(identity.username),
            email=identity.email,
            first_name=identity.first_name,
            last_name=identity.last_name,
        )
        user.set_unusable_password()
        user.save()
        record(user, "made", user, after={"username": user.username, "email": user.email, "by": name})
        num_joined = sum(accept(user=user, invitation=invitation) for invitation in invitations)
        if not num_joined and not _lets_in(identity.email):
            raise Refused("Whoever invited you may not let people in any more. Ask for a new invitation.")
    return Admitted(user, num_joined)


def _invitations(identity: Identity, wanted: str) -> list[Invitation]:
    """Whose link they hold, and those to their address."""
    found: list[Invitation] = []
    try:
        match = resolve(wanted.partition("?")[0])
    except Resolver404:
        match = None
    if match and match.view_name == "accounts:invitation" and (held := Invitation.objects.matching(match.kwargs["secret"])):
        found.append(held)
    if identity.email:
        to_them = Invitation.objects.open().filter(email__iexact=identity.email).select_related("project", "created_by")
        found += [invitation for invitation in to_them if invitation not in found]
    return found


def _lets_in(email: str) -> bool:
    domains = configured().domains
    return "*" in domains or (bool(email) and email.rpartition("@")[2].lower() in domains)


def _free_name(wanted: str) -> str:
    """As the provider calls them, or nearly; never somebody else's."""
    name = FORBIDDEN_IN_NAMES.sub("", unicodedata.normalize("NFKC", wanted))[: LONGEST_NAME - 10] or "user"
    while User.objects.filter(username__iexact=name).exists():
        name = f"{name[: LONGEST_NAME - 10]}-{secrets.token_hex(2)}"
    return name
