"""People, projects and tokens for staff. A token's secret cannot be read here, and none can be made: its owner does that."""

from __future__ import annotations

from typing import Any, ClassVar

from allauth.mfa.models import Authenticator
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as StockUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Exists, Model, OuterRef, QuerySet
from django.forms import BaseInlineFormSet
from django.http import HttpRequest
from django.utils.timezone import now

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import ApiToken, AuditEntry, BackendCredential, Membership, Project, User
from evsys_web.accounts.second_factor import remove
from evsys_web.accounts.views import signed_in

MOST_PROJECTS, MOST_INLINE = 50, 50
RIGHTS = ("is_staff", "is_superuser", "groups", "user_permissions")

admin.site.unregister(Group)  # roles in projects say who may do what
for model in apps.get_models():  # allauth's tables: our own pages write them, with an entry in the audit log
    if model.__module__.startswith("allauth.") and admin.site.is_registered(model):
        admin.site.unregister(model)


class Audited:
    """Stock pages that write, with an entry in the audit log for each. No counts beside filters: each is a query over all."""

    show_facets = admin.ShowFacets.NEVER

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        before = facts(type(obj)._default_manager.get(pk=obj.pk)) if change else None
        super().save_model(request, obj, form, change)  # type: ignore[misc]
        record(request.user, "changed" if change else "made", obj, before=before, after=facts(obj))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        record(request.user, "deleted", obj, before=facts(obj))
        super().delete_model(request, obj)  # type: ignore[misc]

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for each in queryset:
            record(request.user, "deleted", each, before=facts(each))
        super().delete_queryset(request, queryset)  # type: ignore[misc]


class ProjectFilter(admin.RelatedFieldListFilter):
    """The first projects by name, and the one that is chosen: everybody has one, and a list of all would be the whole page. The
    others are found by searching for their name."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> list[Any]:
        first = list(Project.objects.order_by("name", "pk")[:MOST_PROJECTS].values_list("pk", "name"))
        chosen = [int(text) for text in self.lookup_val or () if str(text).isdecimal() and len(text) < 19]
        return first + list(Project.objects.filter(pk__in=set(chosen) - {pk for pk, _ in first}).values_list("pk", "name"))


class NewestFormSet(BaseInlineFormSet[Any, Any, Any]):
    """Of hundreds of rows the newest, all of which are to look at."""

    def get_queryset(self) -> Any:
        if not hasattr(self, "_newest"):  # it is asked for once for every row
            self._newest = super().get_queryset()[:MOST_INLINE]
        return self._newest


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Membership
    extra = 0
    autocomplete_fields: ClassVar[list[str]] = ["user"]


def _may_touch(request: HttpRequest, user: User | None) -> bool:
    """Staff are a superuser's to change: with another's password or e-mail address staff would act as their colleagues."""
    return bool(request.user.is_superuser) or user is None or not (user.is_staff or user.is_superuser)


def _granted(user: User) -> dict[str, list[str]]:
    return {
        "groups": sorted(user.groups.values_list("name", flat=True)),
        "user_permissions": sorted(user.user_permissions.values_list("codename", flat=True)),
    }


@admin.register(User)
class UserAdmin(Audited, StockUserAdmin):  # type: ignore[type-arg]
    list_display = ("username", "email", "is_active", "is_staff", "has_second_factor", "last_login")
    list_filter = ("is_staff", "is_superuser", "is_active")
    show_full_result_count = False
    actions = ("remove_second_factor",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any | None = None) -> Any:
        """Whoever may change people gives nobody, themselves included, rights that they were not given."""
        fields = super().get_readonly_fields(request, obj)
        return fields if request.user.is_superuser else (*fields, *RIGHTS)

    def has_change_permission(self, request: HttpRequest, obj: Any | None = None) -> bool:
        return super().has_change_permission(request, obj) and _may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any | None = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_touch(request, obj)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        before = _granted(form.instance)
        super().save_related(request, form, formsets, change)
        after = _granted(form.instance)
        if before != after:
            record(request.user, "changed the permissions of", form.instance, before=before, after=after)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        factors = Authenticator.objects.filter(user=OuterRef("pk"))
        users: QuerySet[Any] = super().get_queryset(request).annotate(has_second_factor=Exists(factors))
        return users

    @admin.display(boolean=True, description="second factor")
    def has_second_factor(self, user: Any) -> bool:
        return bool(user.has_second_factor)

    @admin.action(description="Remove the second factor (lost telephone)", permissions=["remove_second_factor"])
    def remove_second_factor(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        count = sum(remove(user=user, by=signed_in(request)) for user in queryset)
        self.message_user(request, f"Removed: {count}. Their password alone signs them in now: make sure that they asked.")

    def has_remove_second_factor_permission(self, request: HttpRequest) -> bool:
        """Not any staff: it would open an administrator's account to whoever knows the password."""
        return bool(request.user.is_superuser)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Setting somebody's password passes by here and not by `save_model`."""
        if "password" in str(message):
            record(request.user, "set the password of", obj)
        return super().log_change(request, obj, message)


@admin.register(Project)
class ProjectAdmin(Audited, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "created_at")
    search_fields = ("name",)
    show_full_result_count = False
    readonly_fields = ("created_at",)
    inlines: ClassVar = [MembershipInline]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        before = form.instance.roles()
        super().save_related(request, form, formsets, change)
        after = form.instance.roles()
        if before != after:
            record(request.user, "changed the members of", form.instance, before=before, after=after)


@admin.register(ApiToken)
class ApiTokenAdmin(Audited, admin.ModelAdmin):  # type: ignore[type-arg]
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
        usable = list(queryset.filter(revoked_at=None))
        count = queryset.filter(revoked_at=None).update(revoked_at=now())
        for token in usable:
            record(request.user, "revoked", token, before={"state": token.state}, after={"state": "revoked"})
        self.message_user(request, f"Revoked: {count}. Whoever uses such a token is refused from now on.")


TESTED = ("tested_at", "test_outcome", "test_sentence")


@admin.register(BackendCredential)
class BackendCredentialAdmin(Audited, admin.ModelAdmin):  # type: ignore[type-arg]
    """The key itself is nowhere here: it is written on the credentials page, and read by nobody."""

    list_display = ("name", "project", "kind", "hint", "created_by", "created_at", "last_used_at", "test_outcome")
    list_filter = ("kind", "test_outcome")
    search_fields = ("name", "created_by__username")
    show_full_result_count = False
    list_select_related = ("project", "created_by")
    fields = ("project", "name", "kind", "base_url", "hint", "created_by", "created_at", "last_used_at", *TESTED)
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(AuditEntry)
class AuditEntryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """To read: entries are added by what people do, and neither changed nor deleted."""

    list_display = ("created_at", "username", "verb", "kind", "thing", "project", "door", "address")
    list_filter = ("kind", "verb", ("project", ProjectFilter), "created_at")
    list_select_related = ("project",)
    search_fields = ("username", "thing", "project__name")
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: AuditEntry | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: AuditEntry | None = None) -> bool:
        return False
