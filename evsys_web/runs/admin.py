"""Runs in the admin: to look at, to stop, resume and delete by the functions that the pages call. No form edits one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest

from evsys_web.accounts.admin import Audited, NewestFormSet, ProjectFilter
from evsys_web.accounts.views import signed_in
from evsys_web.runs import actions
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.errors import RecipeError


class ReadOnly(Audited):
    """Rows are made by workers and actions alone. Lists ask for one page by the primary key, and count once: there may be
    hundreds of thousands of rows."""

    show_full_result_count = False
    list_per_page = 50
    ordering: Any = ("-pk",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class WorkAdmin(ReadOnly, admin.ModelAdmin[Any]):
    """Work that a worker may hold: `stop`, `resume` and `delete` are the functions of its app, called as (user, row)."""

    stop: Callable[[Any, Any], object]
    resume: Callable[[Any, Any], object]
    delete: Callable[[Any, Any], object]
    actions: Any = ("stop_chosen", "resume_chosen")

    @admin.action(description="Stop", permissions=["operate"])
    def stop_chosen(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._each(request, queryset, self.stop, "asked to stop")

    @admin.action(description="Resume", permissions=["operate"])
    def resume_chosen(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._each(request, queryset, self.resume, "queued again")

    def _each(self, request: HttpRequest, rows: QuerySet[Any], act: Callable[[Any, Any], object], done: str) -> None:
        for row in rows:
            try:
                act(signed_in(request), row)
                self.message_user(request, f"{row}: {done}.", messages.SUCCESS)
            except (RecipeError, PermissionDenied) as error:
                self.message_user(request, f"{row}: {error}", messages.ERROR)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return super().has_delete_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Not while a worker holds it."""
        return super().has_delete_permission(request, obj) and not (obj is not None and obj.is_active)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Only the rows themselves. The stock page would list every attempt and event that goes with them."""
        rows = [f"{self.opts.verbose_name} {row}, with everything that belongs to it" for row in objs]
        return rows, {str(self.opts.verbose_name_plural): len(rows)}, set(), []

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Deleting many at once would not ask each whether it is running."""
        return {name: action for name, action in super().get_actions(request).items() if name != "delete_selected"}

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """With its folder, as the page does."""
        self.delete(signed_in(request), obj)


class CheckpointInline(ReadOnly, admin.TabularInline[Checkpoint, TrainingRun]):
    model = Checkpoint
    fields = ("name", "step", "state_uri", "sampler_uri", "created_at")
    can_delete = False
    formset = NewestFormSet
    verbose_name_plural = "newest checkpoints"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Checkpoint]:
        return super().get_queryset(request).select_related("run")


@admin.register(TrainingRun)
class TrainingRunAdmin(WorkAdmin):
    list_display = ("name", "project", "status", "algorithm", "backend", "step", "num_steps", "created_by", "created_at")
    list_filter = ("status", "is_external", ("project", ProjectFilter), "created_at")
    search_fields = ("name", "dataset_reference", "created_by__username")
    list_select_related = ("project", "created_by")
    readonly_fields = (
        "status",
        "attempt",
        "step",
        "num_steps",
        "lease_owner",
        "lease_until",
        "error_type",
        "error",
        "error_detail",
        "created_at",
        "started_at",
        "finished_at",
    )
    inlines: ClassVar[list[Any]] = [CheckpointInline]
    stop = staticmethod(lambda user, run: actions.stop_run(user=user, run=run))
    resume = staticmethod(lambda user, run: actions.resume_run(user=user, run=run))
    delete = staticmethod(lambda user, run: actions.delete_run(user=user, run=run))
