"""Who is in a project: making one, inviting, joining, changing roles, leaving. A project always keeps an admin."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import NamedTuple

from django.conf import settings
from django.core.mail import send_mail
from django.core.validators import validate_email
from django.db import transaction
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.audit import record
from evsys_web.accounts.models import Invitation, Membership, Project, Role, User, digest_of
from evsys_web.accounts.permissions import may_administer, require_admin
from evsys_web.rates import is_too_often
from recipes.errors import ConfigError

OPEN_FOR = timedelta(days=7)
MOST_OPEN = 100
LETTERS_AN_HOUR = 30
"""Of one person."""
LAST_ADMIN = "This is the project's last admin. Make somebody else an admin first."
RANK = {Role.VIEWER: 0, Role.EDITOR: 1, Role.ADMIN: 2}


class Invited(NamedTuple):
    """link: with the secret; shown or sent this once. was_sent: by e-mail."""

    invitation: Invitation
    link: str
    was_sent: bool


def create_project(*, user: User, name: str) -> Project:
    """Its first admin is whoever makes it. Raises ConfigError."""
    name = name.strip()
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise ConfigError("Give the project a name of 1 to 100 printable characters.", path=("name",))
    with transaction.atomic():
        project = Project.objects.create_for(user, name=name)
        record(user, "made", project, after={"name": name})
    return project


def change_role(*, user: User, membership: Membership, role: str) -> Membership:
    """Raises ConfigError for a word that is no role, and for the last admin."""
    require_admin(user, membership.project)
    if role not in Role.values:
        raise ConfigError(f"Choose a role: {', '.join(Role.values)}.", path=("role",))
    with transaction.atomic():
        _lock(membership.project)
        _read_again(membership)
        if role != Role.ADMIN:
            _refuse_last_admin(membership)
        before, membership.role = membership.role, role
        membership.save(update_fields=["role"])
        record(user, "changed the role of", membership, before={"role": before}, after={"role": role})
    return membership


def remove_member(*, user: User, membership: Membership) -> None:
    """By an admin, or by the person, who leaves. What they made stays. Raises ConfigError for the last admin."""
    if membership.user_id != user.pk:
        require_admin(user, membership.project)
    with transaction.atomic():
        _lock(membership.project)
        _read_again(membership)
        _refuse_last_admin(membership)
        record(user, "left" if membership.user_id == user.pk else "removed", membership, before={"role": membership.role})
        membership.delete()


def invite(*, user: User, project: Project, role: str, email: str = "") -> Invited:
    """A link that lets one person join within a week; sent when there is an address and this server sends e-mail.
    Raises ConfigError, ValidationError."""
    require_admin(user, project)
    if role not in Role.values:
        raise ConfigError(f"Choose a role: {', '.join(Role.values)}.", path=("role",))
    if email := email.strip():
        validate_email(email)
    if Invitation.objects.open().filter(project=project).count() >= MOST_OPEN:
        raise ConfigError(f"A project has {MOST_OPEN} open invitations at most. Withdraw one first.", path=())
    secret = secrets.token_urlsafe(32)
    values = {"role": role, "email": email, "digest": digest_of(secret), "created_by": user, "expires_at": now() + OPEN_FOR}
    link = settings.URL + reverse("accounts:invitation", args=[secret])
    with transaction.atomic():
        invitation = Invitation.objects.create(project=project, **values)
        record(user, "invited", invitation, after={"role": role, "email": email})
    return Invited(invitation, link, _sent(invitation, link))


def withdraw(*, user: User, invitation: Invitation) -> None:
    require_admin(user, invitation.project)
    with transaction.atomic():
        record(user, "withdrew", invitation, before={"role": invitation.role, "email": invitation.email})
        invitation.delete()


def accept(*, user: User, invitation: Invitation) -> bool:
    """Join the project; somebody who is in it keeps the higher role. False when the link was used, withdrawn, or is too old, or
    when whoever made it may not let people in any more."""
    with transaction.atomic():
        _lock(invitation.project)
        inviter = User.objects.filter(pk=invitation.created_by_id, is_active=True).first()
        if inviter is None or not may_administer(inviter, invitation.project):
            return False
        still_open = Invitation.objects.open().filter(pk=invitation.pk)
        if not still_open.update(accepted_at=now(), accepted_by=user):
            return False
        membership, is_new = Membership.objects.get_or_create(
            project=invitation.project, user=user, defaults={"role": invitation.role}
        )
        before = None if is_new else membership.role
        if before and RANK[Role(invitation.role)] > RANK[Role(before)]:
            membership.role = invitation.role
            membership.save(update_fields=["role"])
        record(user, "joined", membership, before={"role": before}, after={"role": membership.role})
    return True


def _lock(project: Project) -> None:
    """Two admins who demote each other at the same moment must not both succeed."""
    Project.objects.select_for_update().get(pk=project.pk)


def _read_again(membership: Membership) -> None:
    """Under the lock. Raises ConfigError when another admin was faster."""
    try:
        membership.refresh_from_db()
    except Membership.DoesNotExist:
        raise ConfigError("They are not in the project any more.", path=()) from None


def _refuse_last_admin(membership: Membership) -> None:
    admins = Membership.objects.filter(project=membership.project, role=Role.ADMIN)
    if membership.role == Role.ADMIN and not admins.exclude(pk=membership.pk).exists():
        raise ConfigError(LAST_ADMIN, path=("role",))


def _sent(invitation: Invitation, link: str) -> bool:
    """Everybody can make a project and invite whom they like: whoever sends many letters is shown the further links alone."""
    if not (invitation.email and settings.EMAIL_IS_SENT):
        return False
    if is_too_often(f"invitations:{invitation.created_by_id}", limit=LETTERS_AN_HOUR, seconds=3600):
        return False
    subject = f"Join {invitation.project} on EvSys"
    text = (
        f"{invitation.created_by} invites you to the project {invitation.project} as {invitation.get_role_display().lower()}.\n\n"
        f"{link}\n\nThe link works once, until {invitation.expires_at:%d %B %Y}.\n"
    )
    try:
        send_mail(" ".join(subject.split())[:200], text, None, [invitation.email])
    except OSError:  # the link is shown instead
        return False
    return True
