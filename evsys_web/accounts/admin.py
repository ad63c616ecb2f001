"""People, projects and tokens for staff. A token's secret cannot be read here, and none can be made: its owner does that."""

from __future__ import annotations

from typing import ClassVar

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as StockUserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.timezone import now

from evsys_web.accounts.models import ApiToken, BackendCredential, Membership, Project, User


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Membership
    extra = 0
    autocomplete_fields: ClassVar[list[str]] = ["user"]


@admin.register(User)
class UserAdmin(StockUserAdmin):  # type: ignore[type-arg]
    list_display = ("username", "email", "is_active", "is_staff", "last_login")


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "created_at")
    search_fields = ("name",)
    readonly_fields = ("created_at",)
    inlines: ClassVar = [MembershipInline]


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "user", "prefix", "scope", "state", "created_at", "expires_at", "last_used_at")
    list_filter = ("scope",)
    show_full_result_count = False
    list_select_related = ("user",)
    search_fields = ("name", "prefix", "user__username")
    fields = ("user", "name", "scope", "prefix", "created_at", "expires_at", "revoked_at", "last_used_at")
    readonly_fields = fields
    actions = ("revoke",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @admin.action(description="Revoke", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        count = queryset.filter(revoked_at=None).update(revoked_at=now())
        self.message_user(request, f"Revoked: {count}. Whoever uses such a token is refused from now on.")


@admin.register(BackendCredential)
class BackendCredentialAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The key itself is nowhere here: it is written on the credentials page, and read by nobody."""

    list_display = ("name", "project", "kind", "hint", "created_by", "created_at", "last_used_at")
    list_filter = ("project",)
    search_fields = ("name", "created_by__username")
    show_full_result_count = False
    list_select_related = ("project", "created_by")
    fields = ("project", "name", "kind", "hint", "created_by", "created_at", "last_used_at")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False
