"""`manage.py rotate_keys`: every stored credential under a new key; the former key opens nothing of the database afterwards."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Model

from evsys_web.accounts.models import BackendCredential
from evsys_web.encryption import reseal, unseal
from evsys_web.home.lock import HomeInUse, alone_in_home
from evsys_web.notifications.models import Channel
from recipes.errors import ConfigError

SEALED: list[tuple[type[Model], str]] = [(BackendCredential, "sealed"), (Channel, "sealed_secret")]
"""Every column that evsys_web/encryption.py writes."""


class Command(BaseCommand):
    help = (
        "Seal all stored credentials with a new key. With EVSYS_SECRET_KEYS: put the new key in front of the old one first. "
        "Without: a new key is made in EVSYS_HOME; stop the server first, since it knows the old one alone."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        file = settings.HOME / "credential_key"
        if settings.CREDENTIAL_KEYS_ARE_GIVEN:
            if len(settings.CREDENTIAL_KEYS) < 2:
                raise CommandError("EVSYS_SECRET_KEYS holds one key. Put a new one in front: EVSYS_SECRET_KEYS=new,old.")
            count = _reseal_all()
            _refuse_what_the_first_key_does_not_open()
            self.stdout.write(f"{count} sealed anew. Take the former keys out of EVSYS_SECRET_KEYS and start the server again.")
            return
        try:
            with alone_in_home(f"rotate_keys (process {os.getpid()})"):
                count = _rotate(file)
        except HomeInUse:
            raise CommandError("EvSys Web runs on this EVSYS_HOME. Stop it first.") from None
        self.stdout.write(f"{count} sealed anew under a new key in {file}. Start the server again.")


def _rotate(file: Path) -> int:
    """How many. The file holds both keys until the new one was seen to open everything."""
    if file.exists() and file.read_text().strip() != ",".join(settings.CREDENTIAL_KEYS):
        raise CommandError(f"{file} changed since this command began to read it. Try again.")  # another rotation was quicker
    settings.CREDENTIAL_KEYS = [secrets.token_urlsafe(50), *settings.CREDENTIAL_KEYS]
    _write(file, settings.CREDENTIAL_KEYS)
    count = _reseal_all()
    _refuse_what_the_first_key_does_not_open()
    settings.CREDENTIAL_KEYS = settings.CREDENTIAL_KEYS[:1]
    _write(file, settings.CREDENTIAL_KEYS)
    return count


def _refuse_what_the_first_key_does_not_open() -> None:
    """Somebody may have stored a credential meanwhile who knew the former key alone."""
    keys = settings.CREDENTIAL_KEYS
    settings.CREDENTIAL_KEYS = keys[:1]
    try:
        for model, column in SEALED:
            for pk, sealed in model._default_manager.exclude(**{column: ""}).values_list("pk", column):
                try:
                    unseal(sealed)
                except ConfigError:
                    raise CommandError(
                        f"{model._meta.verbose_name} {pk} was stored meanwhile under a former key. All keys are kept: "
                        "stop whatever else uses this database, and run this again."
                    ) from None
    finally:
        settings.CREDENTIAL_KEYS = keys


def _reseal_all() -> int:
    """How many. Raises CommandError, with everything still to be opened, for one that no key opens."""
    count = 0
    for model, column in SEALED:
        for pk, sealed in model._default_manager.exclude(**{column: ""}).values_list("pk", column):
            try:
                anew = reseal(sealed)
            except ConfigError as error:
                raise CommandError(f"{model._meta.verbose_name} {pk}: {error}") from None
            count += model._default_manager.filter(pk=pk, **{column: sealed}).update(**{column: anew})
    return count


def _write(file: Path, keys: list[str]) -> None:
    """Whole or not at all, and readable by the owner alone from the first byte."""
    partial = file.with_name(f"{file.name}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        written.write(",".join(keys))
        written.flush()
        os.fsync(written.fileno())
    partial.replace(file)
