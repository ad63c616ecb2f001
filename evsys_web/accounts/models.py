"""Who may see what: people, the projects they share, and the tokens their scripts carry."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
from django.utils.timezone import now


class User(AbstractUser):
    """A person who signs in."""

    def default_project(self) -> Project:
        """The first project this person belongs to; made on first use."""
        membership = self.memberships.select_related("project").order_by("pk").first()
        return membership.project if membership else Project.objects.create_for(self, name=self.username)


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: User) -> Self:
        return self if user.is_superuser else self.filter(memberships__user=user)

    def create_for(self, owner: User, *, name: str) -> Project:
        project = self.create(name=name)
        Membership.objects.create(project=project, user=owner, role=Role.OWNER)
        return project


class Project(models.Model):
    """A team's room: every dataset and run belongs to one."""

    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(default=now)

    objects = ProjectQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    OWNER = "owner", "Owner"
    MEMBER = "member", "Member"


class Membership(models.Model):
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role, default=Role.MEMBER)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project", "user"], name="one_membership_per_person")
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.project}"


class OwnedQuerySet(models.QuerySet[Any]):
    """For models with a `project`: what a person may see is what lies in their projects."""

    def visible_to(self, user: User) -> Self:
        return self if user.is_superuser else self.filter(project__memberships__user=user)


class Scope(models.TextChoices):
    READ = "read", "Read"
    WRITE = "write", "Read and write"


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def usable(self) -> Self:
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=now()), revoked_at=None, user__is_active=True)

    def of(self, user: User) -> Self:
        return self.filter(user=user)

    def revoke(self, pk: int) -> bool:
        return self.filter(pk=pk, revoked_at=None).update(revoked_at=now()) == 1

    def touch(self, pk: int) -> None:
        """Notes a use, at most once a minute: reading must not cost a write each time."""
        at = now()
        self.filter(Q(last_used_at=None) | Q(last_used_at__lt=at - timedelta(minutes=1)), pk=pk).update(last_used_at=at)

    def matching(self, secret: str) -> ApiToken | None:
        """The usable token with this secret. A 256-bit random secret needs no slow hash."""
        return self.usable().select_related("user").filter(digest=digest_of(secret)).first()

    def issue(
        self, user: User, *, name: str, scope: str = Scope.WRITE, expires_at: datetime | None = None
    ) -> tuple[ApiToken, str]:
        """A new token and its secret; the secret is shown once and stored only as a hash."""
        secret = f"evs_{secrets.token_urlsafe(32)}"
        token = self.create(
            user=user, name=name, scope=scope, expires_at=expires_at, prefix=secret[:12], digest=digest_of(secret)
        )
        return token, secret


class ApiToken(models.Model):
    """Lets a script act as its owner."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100)
    scope = models.CharField(max_length=10, choices=Scope, default=Scope.WRITE)
    prefix = models.CharField(max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(default=now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        verbose_name = "API token"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def can_write(self) -> bool:
        return self.scope == Scope.WRITE

    @property
    def state(self) -> str:
        """One word for the list: active, expired or revoked."""
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at and self.expires_at <= now() else "active"


def digest_of(secret: str) -> str:
    """sha256 in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


class BackendCredential(models.Model):
    """A key for somebody else's server, for everyone in the project to use and for nobody to read. Written as `secret`, stored
    encrypted (`evsys_web/encryption.py`)."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="credentials")
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    name = models.CharField(max_length=200)
    kind = models.CharField(max_length=40, default="openai", help_text="What the key is for.")
    sealed = models.TextField(editable=False)
    hint = models.CharField(max_length=8, blank=True, editable=False, help_text="The key's last characters, to tell keys apart.")
    created_at = models.DateTimeField(default=now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = OwnedQuerySet.as_manager()

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project", "name"], name="one_credential_per_name_and_project")
        ]

    def __str__(self) -> str:
        return self.name


class IdempotencyQuerySet(models.QuerySet["IdempotencyRecord"]):
    def outdated(self, at: datetime) -> Self:
        """Answers older than a day, and claims whose request died without an answer."""
        kept, abandoned = at - timedelta(hours=24), at - timedelta(minutes=10)
        return self.filter(Q(created_at__lt=kept) | Q(status=0, created_at__lt=abandoned))


class IdempotencyRecord(models.Model):
    """The answer to a create that carried an Idempotency-Key. See `api/idempotency.py`."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    request_hash = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(default=0, help_text="0 while the first request is at work.")
    body = models.TextField(blank=True)
    content_type = models.CharField(max_length=100, blank=True)
    created_at = models.DateTimeField(default=now, db_index=True)

    objects = IdempotencyQuerySet.as_manager()

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["user", "key"], name="one_answer_per_key")
        ]

    def __str__(self) -> str:
        return self.key

    def remember(self, status: int, body: str, content_type: str) -> None:
        self.status, self.body, self.content_type = status, body, content_type
        self.save(update_fields=["status", "body", "content_type"])
