"""What a page offers: `{% if user|may_edit:run.project_id %}`. A button is left out where its action would refuse.

A person's roles are read once per request, since a list asks for every row.
"""

from __future__ import annotations

from django import template
from django.contrib.auth.models import AnonymousUser

from evsys_web.accounts.models import EDITING, Role, User

register = template.Library()
Somebody = User | AnonymousUser


@register.filter
def may_edit(user: Somebody, project_id: int) -> bool:
    return _is_over_all(user) or _roles(user).get(project_id) in EDITING


@register.filter
def may_administer(user: Somebody, project_id: int) -> bool:
    return _is_over_all(user) or _roles(user).get(project_id) == Role.ADMIN


@register.filter
def may_delete(user: Somebody, work: object) -> bool:
    """Of what an editor may delete when they made it, and an admin always: anything with `project_id` and `created_by_id`."""
    project_id, maker_id = getattr(work, "project_id", 0), getattr(work, "created_by_id", None)
    return may_administer(user, project_id) or (may_edit(user, project_id) and maker_id == user.pk)


@register.filter
def may_edit_somewhere(user: Somebody) -> bool:
    roles = _roles(user)
    return _is_over_all(user) or not roles or any(role in EDITING for role in roles.values())


def _is_over_all(user: Somebody) -> bool:
    return bool(user.is_superuser)


def _roles(user: Somebody) -> dict[int, str]:
    if not isinstance(user, User):
        return {}
    known: dict[int, str] | None = getattr(user, "_roles", None)
    if known is None:
        known = dict(user.memberships.values_list("project_id", "role"))
        user._roles = known  # type: ignore[attr-defined]
    return known
