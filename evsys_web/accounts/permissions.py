"""The one place that decides who may do what in a project: viewers look, editors work, admins also say who is in it.

Whoever is not in a project does not learn that it is there: pages and API look rows up by `visible_to`, which gives 404. Every
write asks here, inside its action, which gives 403 with a sentence. A superuser may do everything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from evsys_web.accounts.models import EDITING, Membership, Project, Role, User

View = TypeVar("View", bound=Callable[..., HttpResponse])

LOOKS_ONLY = "You may look at this project, and not change it. Ask one of its admins to make you an editor."
LOOKS_EVERYWHERE = "You may look at your projects, and not change them. Ask an admin of a project to make you an editor."
NOT_INSIDE = "You are not in this project."
ADMINS_ONLY = "Only an admin of the project may do that."
NOT_YOURS = "Only whoever made this, or an admin of the project, may do that."


def role_in(user: User, project_id: int) -> Role | None:
    """None for a stranger. Asked anew each time, since a role may have been taken away a moment ago."""
    if user.is_superuser:
        return Role.ADMIN
    found = Membership.objects.filter(user=user, project=project_id).values_list("role", flat=True).first()
    return Role(found) if found else None


def may_edit(user: User, project: Project) -> bool:
    return role_in(user, project.pk) in EDITING


def may_administer(user: User, project: Project) -> bool:
    return role_in(user, project.pk) == Role.ADMIN


def may_edit_somewhere(user: User) -> bool:
    """Also whoever is in no project yet: the first thing they make comes with one."""
    return Project.objects.editable_by(user).exists() or not user.memberships.exists()


def require_editor(user: User, project: Project) -> None:
    """Raises PermissionDenied."""
    _require(user, project, *EDITING)


def require_admin(user: User, project: Project) -> None:
    """Raises PermissionDenied."""
    _require(user, project, Role.ADMIN)


def require_editor_somewhere(user: User) -> None:
    """Raises PermissionDenied."""
    if not may_edit_somewhere(user):
        raise PermissionDenied(LOOKS_EVERYWHERE)


def require_maker(user: User, project: Project, maker_id: int | None) -> None:
    """For what only an editor who made a thing, or an admin, may do to it. Raises PermissionDenied."""
    require_editor(user, project)
    if maker_id != user.pk and not may_administer(user, project):
        raise PermissionDenied(NOT_YOURS)


def editors_only(view: View) -> View:
    """For the pages that make something: whoever may edit no project at all is told so at once, not after filling in a form.
    In which project it is made, and whether they may, is for the action to ask."""

    @wraps(view)
    def asked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        assert isinstance(request.user, User)
        require_editor_somewhere(request.user)
        return view(request, *args, **kwargs)

    return cast("View", asked)


def _require(user: User, project: Project, *roles: Role) -> None:
    role = role_in(user, project.pk)
    if role in roles:
        return
    if role is None:
        raise PermissionDenied(NOT_INSIDE)
    raise PermissionDenied(LOOKS_ONLY if role == Role.VIEWER and Role.EDITOR in roles else ADMINS_ONLY)
