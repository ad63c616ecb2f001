"""`manage.py remove_second_factor NAME`: for whoever lost both the telephone and the recovery codes."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.accounts.models import User
from evsys_web.accounts.second_factor import remove


class Command(BaseCommand):
    help = "Remove somebody's second factor: their password alone signs them in, until they turn it on again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['username']!r}.")
        if not remove(user=user, by=None):
            raise CommandError(f"{user} has no second factor.")
        self.stdout.write(f"{user} signs in with the password alone now. Make sure that it was really them who asked.")
