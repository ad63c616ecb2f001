"""Whose work a management command does: its arguments --user and --project."""

from __future__ import annotations

from django.core.management.base import CommandError, CommandParser

from evsys_web.accounts.models import Project, User


def add_user_argument(parser: CommandParser) -> None:
    parser.add_argument("--user", help="Whose it is; by default the first administrator's.")


def add_owner_arguments(parser: CommandParser) -> None:
    add_user_argument(parser)
    parser.add_argument("--project", type=int, help="Id of the project; by default the user's first one.")


def chosen_user(name: str | None) -> User:
    """Raises CommandError."""
    users = User.objects.filter(username=name) if name else User.objects.filter(is_superuser=True).order_by("pk")
    user: User | None = users.filter(is_active=True).first()
    if user is None:
        raise CommandError(f"There is no user {name!r}." if name else "There is no administrator yet; start `manage.py up` once.")
    return user


def chosen_project(user: User, pk: int | None) -> Project:
    """Raises CommandError."""
    if pk is None:
        return user.default_project()
    project: Project | None = Project.objects.visible_to(user).filter(pk=pk).first()
    if project is None:
        raise CommandError(f"{user} has no project {pk}.")
    return project
