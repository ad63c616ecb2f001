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
        """The first project this person may work in, else look at; one of their own, made on first use, when there is none."""
        memberships = list(self.memberships.select_related("project").order_by("pk"))
        for membership in memberships:
            if membership.role in EDITING:
                return membership.project
        return memberships[0].project if memberships else Project.objects.create_for(self, name=self.username)


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: User) -> Self:
        return self if user.is_superuser else self.filter(memberships__user=user)

    def editable_by(self, user: User) -> Self:
        return self if user.is_superuser else self.filter(memberships__user=user, memberships__role__in=EDITING)

    def administered_by(self, user: User) -> Self:
        return self if user.is_superuser else self.filter(memberships__user=user, memberships__role=Role.ADMIN)

    def create_for(self, admin: User, *, name: str) -> Project:
        project = self.create(name=name)
        Membership.objects.create(project=project, user=admin, role=Role.ADMIN)
        return project


class Project(models.Model):
    """A team's room: every dataset and run belongs to one."""

    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(default=now)

    objects = ProjectQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    def roles(self) -> dict[str, str]:
        """By user name."""
        return dict(self.memberships.order_by("pk").values_list("user__username", "role"))


class Role(models.TextChoices):
    """What each may do stands in `permissions.py`."""

    VIEWER = "viewer", "Viewer"
    EDITOR = "editor", "Editor"
    ADMIN = "admin", "Admin"


EDITING = (Role.EDITOR, Role.ADMIN)


class Membership(models.Model):
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role, default=Role.VIEWER)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project", "user"], name="one_membership_per_person")
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.project}"


class OwnedQuerySet(models.QuerySet[Any]):
    """For models with a `project`, their own or a parent's: what a person may see, and work with, lies in their projects."""

    project_path = "project"

    def visible_to(self, user: User) -> Self:
        return self if user.is_superuser else self._in(Membership.objects.filter(user=user))

    def editable_by(self, user: User) -> Self:
        return self if user.is_superuser else self._in(Membership.objects.filter(user=user, role__in=EDITING))

    def _in(self, memberships: models.QuerySet[Membership]) -> Self:
        """Not joined: SQLite would then begin with the projects and sort all they own, where an index knows the few wanted."""
        return self.filter(**{f"{self.project_path}__in": memberships.values("project")})


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


class CredentialKind(models.TextChoices):
    """What a key is for, as `recipes.probes` calls it. S3's keys are the operator's, and stand in the environment."""

    OPENAI = "openai", "OpenAI-compatible server"
    TINKER = "tinker", "Tinker"
    FIREWORKS = "fireworks", "Fireworks"
    HUB = "hub", "Hugging Face hub"


class BackendCredential(models.Model):
    """A key for somebody else's server, for everyone in the project to use and for nobody to read. Written as `secret`, stored
    encrypted (`evsys_web/encryption.py`)."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="credentials")
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    name = models.CharField(max_length=200)
    kind = models.CharField(
        max_length=40, choices=CredentialKind, default=CredentialKind.OPENAI, help_text="What the key is for."
    )
    base_url = models.CharField("address", max_length=1000, blank=True, help_text="Where it is tested. Configs name their own.")
    sealed = models.TextField(editable=False)
    hint = models.CharField(max_length=8, blank=True, editable=False, help_text="The key's last characters, to tell keys apart.")
    created_at = models.DateTimeField(default=now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    tested_at = models.DateTimeField(null=True, editable=False)
    test_outcome = models.CharField(max_length=10, blank=True, editable=False, help_text="works, fails or unclear.")
    test_sentence = models.CharField(max_length=500, blank=True, editable=False)

    objects = OwnedQuerySet.as_manager()

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project", "name"], name="one_credential_per_name_and_project")
        ]

    def __str__(self) -> str:
        return self.name


class IdempotencyQuerySet(models.QuerySet["IdempotencyRecord"]):
    def outdated(self, at: datetime) -> Self:
        """Older than a day. A claim whose request died without an answer is kept as long: it may have made something."""
        return self.filter(created_at__lt=at - timedelta(hours=24))


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

    @property
    def is_abandoned(self) -> bool:
        """Its request died without an answer: none takes so long."""
        return not self.status and self.created_at < now() - timedelta(minutes=10)

    def remember(self, status: int, body: str, content_type: str) -> None:
        """May come a while later, when the row is swept away already."""
        type(self).objects.filter(pk=self.pk).update(status=status, body=body, content_type=content_type)

    def forget(self) -> None:
        """That it was asked: nothing was made."""
        type(self).objects.filter(pk=self.pk).delete()


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    def visible_to(self, user: User) -> Self:
        """Of projects of which they are admin, and what they did to their own account."""
        if user.is_superuser:
            return self
        administered = Project.objects.administered_by(user).values("pk")
        return self.filter(Q(project__in=administered) | Q(project=None, user=user))

    def about(self, word: str) -> Self:
        return self.filter(Q(thing__icontains=word) | Q(kind__icontains=word) | Q(verb__icontains=word))

    def update(self, **values: Any) -> int:
        raise TypeError("Entries of the audit log are not changed.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError("Entries of the audit log are not deleted.")


class AuditEntry(models.Model):
    """changes: {field: [before, after]}; of a new thing before is null, of a deleted one after."""

    created_at = models.DateTimeField(default=now, db_index=True, editable=False)
    user = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    username = models.CharField(max_length=150, blank=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    verb = models.CharField(max_length=40, editable=False)
    kind = models.CharField(max_length=60, editable=False, help_text="Of what kind the thing is: training run, dataset, …")
    thing_id = models.CharField(max_length=64, editable=False)
    thing = models.CharField(max_length=200, editable=False, help_text="What it was called then.")
    changes = models.JSONField(default=dict, editable=False)
    door = models.CharField(
        max_length=60, editable=False, help_text="page, admin, API and the token's prefix, command, or worker."
    )
    address = models.GenericIPAddressField(null=True, editable=False)

    objects = AuditQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "audit entries"
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["project", "-created_at"], name="audit_by_project")]

    def __str__(self) -> str:
        return f"{self.username or 'nobody'} {self.verb} {self.kind} {self.thing}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("Entries of the audit log are not changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise TypeError("Entries of the audit log are not deleted.")


class InvitationQuerySet(OwnedQuerySet):
    def open(self) -> Self:
        return self.filter(accepted_at=None, expires_at__gt=now())

    def matching(self, secret: str) -> Invitation | None:
        found: Invitation | None = self.open().select_related("project", "created_by").filter(digest=digest_of(secret)).first()
        return found


class Invitation(models.Model):
    """Lets whoever holds its link join a project, once. The link's secret is stored as a hash."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=10, choices=Role, default=Role.VIEWER)
    email = models.EmailField(blank=True, help_text="Whom it is for; the link goes there when this server sends e-mail.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+", editable=False)
    created_at = models.DateTimeField(default=now, editable=False)
    expires_at = models.DateTimeField(editable=False)
    accepted_at = models.DateTimeField(null=True, editable=False)
    accepted_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+", editable=False)

    objects = InvitationQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.email or 'somebody'} as {self.role}"
